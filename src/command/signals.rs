//! Signals: the first asks for an orderly end, the second ends at once.

use tokio::signal::unix::{SignalKind, signal};

/// Waits for SIGTERM or SIGINT. The next one exits at once, which is safe: what is not acknowledged comes again.
pub async fn stop() {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::warn!("signals cannot be caught here: stopping is not orderly");
        return std::future::pending().await;
    };
    let name = tokio::select! { _ = term.recv() => "SIGTERM", _ = int.recv() => "SIGINT" };
    tracing::info!(signal = name, "stopping: what is open lands first; a second signal exits at once");
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        std::process::exit(130);
    });
}
