//! RFC 6962 Merkle trees over the entries of a digest.
//!
//! Owns leaf and node hashing, roots, and inclusion proofs (RFC 6962, sections 2.1 and 2.1.1). Pure.

use sha2::{Digest as _, Sha256};

use super::digest::Hash;

/// The hash of a leaf: SHA-256 of `0x00` and the leaf's bytes.
pub fn leaf(bytes: &[u8]) -> Hash {
    let mut h = Sha256::new();
    h.update([0]);
    h.update(bytes);
    Hash(h.finalize().into())
}

fn node(left: &Hash, right: &Hash) -> Hash {
    let mut buf = [1u8; 65];
    buf[1..33].copy_from_slice(&left.0);
    buf[33..].copy_from_slice(&right.0);
    Hash::of(&buf)
}

/// The root over leaf hashes; of no leaves, the SHA-256 of nothing.
pub fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Hash::of(b""),
        [one] => *one,
        _ => {
            let (l, r) = leaves.split_at(split(leaves.len()));
            node(&root(l), &root(r))
        }
    }
}

/// The siblings from leaf `index` up to the root; `None` if there is no such leaf.
pub fn proof(leaves: &[Hash], index: usize) -> Option<Vec<Hash>> {
    if index >= leaves.len() {
        return None;
    }
    let mut path = Vec::new();
    let (mut leaves, mut index) = (leaves, index);
    while leaves.len() > 1 {
        let k = split(leaves.len());
        let (l, r) = leaves.split_at(k);
        if index < k {
            path.push(root(r));
            leaves = l;
        } else {
            path.push(root(l));
            leaves = r;
            index -= k;
        }
    }
    path.reverse();
    Some(path)
}

/// The root that a proof leads to; `None` if the proof has the wrong length.
pub fn root_of_proof(leaf: Hash, index: usize, count: usize, path: &[Hash]) -> Option<Hash> {
    if index >= count {
        return None;
    }
    // Left or right at each level, from the root down, as in `proof`.
    let mut sides = Vec::new();
    let (mut n, mut i) = (count, index);
    while n > 1 {
        let k = split(n);
        let left = i < k;
        sides.push(left);
        (n, i) = if left { (k, i) } else { (n - k, i - k) };
    }
    if sides.len() != path.len() {
        return None;
    }
    let climb = |at: Hash, (left, sibling): (&bool, &Hash)| {
        if *left { node(&at, sibling) } else { node(sibling, &at) }
    };
    Some(sides.iter().rev().zip(path).fold(leaf, climb))
}

/// The largest power of two below `n` (for `n` of two or more).
fn split(n: usize) -> usize {
    n.next_power_of_two() / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_leaf_proves_and_no_other_does() {
        for n in 1..40usize {
            let leaves: Vec<Hash> = (0..n).map(|i| leaf(&[i as u8])).collect();
            let top = root(&leaves);
            for i in 0..n {
                let path = proof(&leaves, i).unwrap();
                assert_eq!(root_of_proof(leaves[i], i, n, &path), Some(top));
                assert_ne!(root_of_proof(leaf(b"other"), i, n, &path), Some(top));
            }
        }
    }

    #[test]
    fn known_roots_of_rfc_6962_test_data() {
        let data: [&[u8]; 8] = [
            b"",
            b"\x00",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        let leaves: Vec<Hash> = data.iter().map(|d| leaf(d)).collect();
        assert_eq!(root(&[]).to_string(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(
            root(&leaves[..1]).to_string(),
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
        );
        assert_eq!(
            root(&leaves).to_string(),
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
        );
    }
}
