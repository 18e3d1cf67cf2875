//! Private keys from files, and signatures as SSH has them (RFC 4253, 5656, 8332, 8709).

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use num_bigint::BigUint;
use ring::rand::SystemRandom;
use ring::rsa::{self, PublicKeyComponents};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RsaEncoding,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use ssh_key::PrivateKey;
use ssh_key::private::{EcdsaKeypair, KeypairData, RsaKeypair};

use super::protocol::put;

/// Bytes that a key file may have; the largest RSA keys have some ten thousand.
const KEY_BYTES_MAX: u64 = 100 * 1024;

/// Sign request flags: which hash an RSA signature is made with.
const RSA_SHA2_256: u32 = 2;
const RSA_SHA2_512: u32 = 4;

/// Why a file gives no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say it")]
pub enum KeyError {
    #[error("cannot read it")]
    Read(#[source] io::Error),
    #[error("it is larger than {} KiB", KEY_BYTES_MAX / 1024)]
    TooBig,
    #[error("it is encrypted: add it to an agent with `ssh-add` and give `--ssh default`")]
    Encrypted,
    #[error("it is a public key: give the private one")]
    Public,
    #[error("it is no private key in OpenSSH or PEM format, or of a kind that is not supported")]
    Format,
    #[error(
        "keys of this kind ({0}) are not supported: use ed25519, RSA, or ECDSA with nistp256 or nistp384"
    )]
    Kind(String),
    #[error("it is in the old format for EC keys: `ssh-keygen -p -f FILE` turns it into OpenSSH's")]
    OldEc,
    #[error("the key is damaged: {0}")]
    Damaged(&'static str),
}

/// A private key.
pub struct Identity {
    public: Vec<u8>,
    comment: String,
    signer: Signer,
}

enum Signer {
    Ed25519(Ed25519KeyPair),
    Ecdsa { name: &'static str, pair: EcdsaKeyPair },
    Rsa(rsa::KeyPair),
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.comment)
    }
}

impl Identity {
    /// Reads the key file `path`.
    pub(super) fn read(path: &Path) -> Result<Self, KeyError> {
        let mut text = Vec::new();
        let file = File::open(path).map_err(KeyError::Read)?;
        file.take(KEY_BYTES_MAX + 1).read_to_end(&mut text).map_err(KeyError::Read)?;
        if text.len() as u64 > KEY_BYTES_MAX {
            return Err(KeyError::TooBig);
        }
        let text = String::from_utf8(text).map_err(|_| KeyError::Format)?;
        let (signer, comment) = parse(&text)?;
        let comment = if comment.is_empty() { path.display().to_string() } else { comment };
        Ok(Self { public: signer.public(), comment, signer })
    }

    /// The public key as SSH writes it.
    pub(super) fn public(&self) -> &[u8] {
        &self.public
    }

    /// What the key is called.
    pub(super) fn comment(&self) -> &str {
        &self.comment
    }

    /// Signature of `data`; `None` for a hash that is not done (SHA-1).
    pub(super) fn sign(&self, data: &[u8], flags: u32) -> Option<Vec<u8>> {
        let (name, signature) = match &self.signer {
            Signer::Ed25519(pair) => ("ssh-ed25519", pair.sign(data).as_ref().to_vec()),
            Signer::Ecdsa { name, pair } => {
                let signature = pair.sign(&SystemRandom::new(), data).ok()?;
                let (r, s) = signature.as_ref().split_at(signature.as_ref().len() / 2);
                let mut pair = Vec::new();
                put_integer(&mut pair, r);
                put_integer(&mut pair, s);
                (ecdsa_name(name), pair)
            }
            Signer::Rsa(pair) => {
                let (name, encoding): (_, &dyn RsaEncoding) = match flags {
                    _ if flags & RSA_SHA2_512 != 0 => ("rsa-sha2-512", &RSA_PKCS1_SHA512),
                    _ if flags & RSA_SHA2_256 != 0 => ("rsa-sha2-256", &RSA_PKCS1_SHA256),
                    _ => return None,
                };
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(encoding, &SystemRandom::new(), data, &mut signature).ok()?;
                (name, signature)
            }
        };
        let mut framed = Vec::new();
        put(&mut framed, name.as_bytes());
        put(&mut framed, &signature);
        Some(framed)
    }
}

impl Signer {
    fn public(&self) -> Vec<u8> {
        let mut public = Vec::new();
        match self {
            Self::Ed25519(pair) => {
                put(&mut public, b"ssh-ed25519");
                put(&mut public, pair.public_key().as_ref());
            }
            Self::Ecdsa { name, pair } => {
                put(&mut public, ecdsa_name(name).as_bytes());
                put(&mut public, name.as_bytes());
                put(&mut public, pair.public_key().as_ref());
            }
            Self::Rsa(pair) => {
                let PublicKeyComponents::<Vec<u8>> { n, e } = pair.public().into();
                put(&mut public, b"ssh-rsa");
                put_integer(&mut public, &e);
                put_integer(&mut public, &n);
            }
        }
        public
    }
}

fn ecdsa_name(curve: &str) -> &'static str {
    if curve == "nistp384" { "ecdsa-sha2-nistp384" } else { "ecdsa-sha2-nistp256" }
}

/// Appends a positive integer, big-endian: no leading zeros, but one where the first bit would mean a sign.
fn put_integer(out: &mut Vec<u8>, bytes: &[u8]) {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let bytes = &bytes[zeros..];
    let is_negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
    let padded: Vec<u8> = is_negative.then_some(0).into_iter().chain(bytes.iter().copied()).collect();
    put(out, &padded);
}

/// The key of a file and its comment.
fn parse(text: &str) -> Result<(Signer, String), KeyError> {
    let text = text.trim_start();
    if ["ssh-", "ecdsa-", "sk-"].iter().any(|start| text.starts_with(start)) {
        return Err(KeyError::Public);
    }
    if text.contains("ENCRYPTED") {
        return Err(KeyError::Encrypted);
    }
    if text.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----") {
        let key = PrivateKey::from_openssh(text).map_err(|_| KeyError::Format)?;
        if key.is_encrypted() {
            return Err(KeyError::Encrypted);
        }
        return Ok((from_openssh(&key)?, key.comment().to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| KeyError::Format)?;
    Ok((from_der(&key)?, String::new()))
}

fn from_openssh(key: &PrivateKey) -> Result<Signer, KeyError> {
    match key.key_data() {
        KeypairData::Ed25519(pair) => {
            let seed = pair.private.to_bytes();
            let pair = Ed25519KeyPair::from_seed_and_public_key(&seed, pair.public.as_ref());
            Ok(Signer::Ed25519(pair.map_err(|_| KeyError::Damaged("public and private half do not match"))?))
        }
        KeypairData::Ecdsa(pair) => {
            let (name, algorithm) = match pair {
                EcdsaKeypair::NistP256 { .. } => ("nistp256", &ECDSA_P256_SHA256_FIXED_SIGNING),
                EcdsaKeypair::NistP384 { .. } => ("nistp384", &ECDSA_P384_SHA384_FIXED_SIGNING),
                EcdsaKeypair::NistP521 { .. } => return Err(KeyError::Kind("nistp521".to_owned())),
            };
            let pair = EcdsaKeyPair::from_private_key_and_public_key(
                algorithm,
                pair.private_key_bytes(),
                pair.public_key_bytes(),
                &SystemRandom::new(),
            );
            let pair = pair.map_err(|_| KeyError::Damaged("public and private half do not match"))?;
            Ok(Signer::Ecdsa { name, pair })
        }
        KeypairData::Rsa(pair) => rsa_from_parts(pair).map(Signer::Rsa),
        _ => Err(KeyError::Kind(key.algorithm().to_string())),
    }
}

/// OpenSSH leaves two of an RSA key's numbers out; they follow from the others.
fn rsa_from_parts(pair: &RsaKeypair) -> Result<rsa::KeyPair, KeyError> {
    const NOT_POSITIVE: KeyError = KeyError::Damaged("a number is not positive");
    let bytes = |number: &ssh_key::Mpint| number.as_positive_bytes().map(<[u8]>::to_vec).ok_or(NOT_POSITIVE);
    let (d, p, q) = (bytes(&pair.private.d)?, bytes(&pair.private.p)?, bytes(&pair.private.q)?);
    let exponent = |prime: &[u8]| {
        let prime = BigUint::from_bytes_be(prime);
        let one = BigUint::from(1_u32);
        if prime <= one {
            return Err(KeyError::Damaged("a prime is none"));
        }
        Ok((BigUint::from_bytes_be(&d) % (prime - one)).to_bytes_be())
    };
    let components = rsa::KeyPairComponents {
        public_key: PublicKeyComponents { n: bytes(&pair.public.n)?, e: bytes(&pair.public.e)? },
        dP: exponent(&p)?,
        dQ: exponent(&q)?,
        qInv: bytes(&pair.private.iqmp)?,
        d: d.clone(),
        p,
        q,
    };
    rsa::KeyPair::from_components(&components).map_err(refused_rsa)
}

fn refused_rsa(refused: ring::error::KeyRejected) -> KeyError {
    match refused.to_string().as_str() {
        "TooSmall" => KeyError::Kind("RSA of less than 2048 bits".to_owned()),
        "TooLarge" => KeyError::Kind("RSA of more than 4096 bits".to_owned()),
        _ => KeyError::Damaged("its numbers do not fit together"),
    }
}

fn from_der(key: &PrivateKeyDer<'_>) -> Result<Signer, KeyError> {
    let key = match key {
        PrivateKeyDer::Pkcs1(key) => {
            return rsa::KeyPair::from_der(key.secret_pkcs1_der()).map(Signer::Rsa).map_err(refused_rsa);
        }
        PrivateKeyDer::Sec1(_) => return Err(KeyError::OldEc),
        PrivateKeyDer::Pkcs8(key) => key.secret_pkcs8_der(),
        _ => return Err(KeyError::Format),
    };
    // Each refuses what is of another kind.
    if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(key) {
        return Ok(Signer::Ed25519(pair));
    }
    let curves: [(_, &'static EcdsaSigningAlgorithm); 2] =
        [("nistp256", &ECDSA_P256_SHA256_FIXED_SIGNING), ("nistp384", &ECDSA_P384_SHA384_FIXED_SIGNING)];
    for (name, algorithm) in curves {
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(algorithm, key, &SystemRandom::new()) {
            return Ok(Signer::Ecdsa { name, pair });
        }
    }
    match rsa::KeyPair::from_pkcs8(key) {
        Ok(pair) => Ok(Signer::Rsa(pair)),
        Err(refused) if matches!(refused.to_string().as_str(), "TooSmall" | "TooLarge") => {
            Err(refused_rsa(refused))
        }
        Err(_) => Err(KeyError::Kind("a PEM key that is neither ed25519, RSA nor ECDSA".to_owned())),
    }
}
