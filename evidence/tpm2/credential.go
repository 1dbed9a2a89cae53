package tpm2

import (
	"crypto/aes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/keystead/keystead"
)

// Labels of the derivations below, with the final zero that each of them includes.
const (
	labelIdentity  = "IDENTITY\x00"
	labelStorage   = "STORAGE\x00"
	labelIntegrity = "INTEGRITY\x00"
)

// MakeCredential encrypts secret so that only the TPM that holds ek can read it,
// and only while it also holds the key named akName (Part 1, 24, "Credential
// Protection"). It returns what TPM2_ActivateCredential takes: the contents of
// TPM2B_ID_OBJECT and of TPM2B_ENCRYPTED_SECRET. Secret is at most as long as the
// digest of ek's name. It refuses an ek that is not a storage key (key-unsuitable).
func MakeCredential(rand io.Reader, ek *Public, akName, secret []byte) (credentialBlob, encryptedSecret []byte, err error) {
	if err := ek.checkStorageKey(); err != nil {
		return nil, nil, err
	}
	size := ek.nameAlg.hash().Size()
	if len(secret) == 0 || len(secret) > size {
		return nil, nil, fmt.Errorf("tpm2: the secret of a credential is 1 to %d bytes long, not %d", size, len(secret))
	}
	if len(akName) < 2 || len(akName) != 2+alg(binary.BigEndian.Uint16(akName)).digestSize() {
		return nil, nil, fmt.Errorf("tpm2: %x is not the name of a key", akName)
	}
	var seed []byte
	switch key := ek.key.(type) {
	case *rsa.PublicKey:
		seed = make([]byte, size)
		if _, err := io.ReadFull(rand, seed); err != nil {
			return nil, nil, err
		}
		encryptedSecret, err = rsa.EncryptOAEP(ek.nameAlg.hash().New(), rand, key, seed, []byte(labelIdentity))
	case *ecdsa.PublicKey:
		seed, encryptedSecret, err = ek.exchange(rand, key)
	}
	if err != nil {
		return nil, nil, err
	}
	sealed := appendSized(nil, secret)
	if err := encryptCFB(ek.kdfa(seed, labelStorage, akName, int(ek.symmetric.bits)), sealed); err != nil {
		return nil, nil, err
	}
	mac := hmac.New(ek.nameAlg.hash().New, ek.kdfa(seed, labelIntegrity, nil, 8*size))
	mac.Write(sealed)
	mac.Write(akName)
	return append(appendSized(nil, mac.Sum(nil)), sealed...), encryptedSecret, nil
}

// CheckCredential compares a TPM's answer with the secret in constant time, and
// refuses another one (credential-invalid).
func CheckCredential(secret, answer []byte) error {
	if len(secret) > 0 && subtle.ConstantTimeCompare(secret, answer) == 1 {
		return nil
	}
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonCredentialInvalid, Where: "credential activation",
		Want: "the secret that was encrypted to the endorsement key", Got: fmt.Sprintf("%d other bytes", len(answer))})
}

// checkStorageKey refuses keys that TPM2_ActivateCredential could not use, or that
// would protect a credential with less than AES-128.
func (p *Public) checkStorageKey() error {
	deny := func(want, got string) error {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonKeyUnsuitable, Want: want, Got: got, Where: "endorsement key"})
	}
	if p == nil || p.key == nil {
		return deny("an endorsement key", "none")
	}
	const storage = attrRestricted | attrDecrypt
	if p.attributes&(storage|attrSign) != storage {
		return deny("a storage key: restricted, decrypt, not sign", fmt.Sprintf("attributes 0x%08x", p.attributes))
	}
	if s := p.symmetric; s.alg != algAES || s.mode != algCFB || s.bits != 128 && s.bits != 256 {
		return deny("aes-128-cfb or aes-256-cfb inside", fmt.Sprintf("%v-%d-%v", s.alg, s.bits, s.mode))
	}
	if key, ok := p.key.(*rsa.PublicKey); ok && key.N.BitLen() < minRSA {
		return deny(fmt.Sprintf("RSA of at least %d bits", minRSA), fmt.Sprintf("%d bits", key.N.BitLen()))
	}
	if !p.nameAlg.strong() {
		return deny("a name by sha256, sha384 or sha512", "a name by "+p.nameAlg.String())
	}
	return nil
}

func (a alg) digestSize() int {
	if h := a.hash(); h != 0 {
		return h.Size()
	}
	return -1
}

// exchange makes an ephemeral key and returns the seed that it shares with ek
// (Part 1, annex C) and the ephemeral point as TPMS_ECC_POINT.
func (p *Public) exchange(rand io.Reader, key *ecdsa.PublicKey) (seed, point []byte, err error) {
	static, err := key.ECDH()
	if err != nil {
		return nil, nil, err
	}
	ephemeral, err := ephemeralKey(rand, static.Curve(), (key.Curve.Params().BitSize+7)/8)
	if err != nil {
		return nil, nil, err
	}
	z, err := ephemeral.ECDH(static)
	if err != nil {
		return nil, nil, err
	}
	own, peer := ephemeral.PublicKey().Bytes()[1:], static.Bytes()[1:] // x || y
	n := len(own) / 2
	point = appendSized(appendSized(nil, own[:n]), own[n:])
	return p.kdfe(z, labelIdentity, own[:n], peer[:n]), point, nil
}

// ephemeralKey draws scalars until one is in range. ecdh's own GenerateKey does
// not promise to use the given randomness.
func ephemeralKey(rand io.Reader, curve ecdh.Curve, size int) (*ecdh.PrivateKey, error) {
	scalar := make([]byte, size)
	for range 128 { // P-256 rejects one in 2^32, P-384 fewer
		if _, err := io.ReadFull(rand, scalar); err != nil {
			return nil, err
		}
		if key, err := curve.NewPrivateKey(scalar); err == nil {
			return key, nil
		}
	}
	return nil, errors.New("tpm2: the randomness given yields no scalar")
}

// kdfe derives a seed of the name's digest size (Part 1, 11.4.10.3). One round of
// the hash is all of it.
func (p *Public) kdfe(z []byte, label string, partyU, partyV []byte) []byte {
	h := p.nameAlg.hash().New()
	h.Write([]byte{0, 0, 0, 1})
	h.Write(z)
	io.WriteString(h, label)
	h.Write(partyU)
	h.Write(partyV)
	return h.Sum(nil)
}

// kdfa derives a key of that many bits, at most one digest (Part 1, 11.4.10.2):
// SP 800-108 in counter mode, one round. Context is contextU; contextV is empty.
func (p *Public) kdfa(seed []byte, label string, context []byte, bits int) []byte {
	mac := hmac.New(p.nameAlg.hash().New, seed)
	mac.Write([]byte{0, 0, 0, 1})
	io.WriteString(mac, label)
	mac.Write(context)
	mac.Write(binary.BigEndian.AppendUint32(nil, uint32(bits)))
	return mac.Sum(nil)[:bits/8]
}

// encryptCFB encrypts in place with a zero IV, as credentials are (Part 1, 24.4).
// The key is fresh for each credential, and integrity comes from the HMAC.
func encryptCFB(key, data []byte) error {
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	var feedback [aes.BlockSize]byte
	for len(data) > 0 {
		block.Encrypt(feedback[:], feedback[:])
		n := subtle.XORBytes(data, data, feedback[:])
		copy(feedback[:], data[:n])
		data = data[n:]
	}
	return nil
}

// appendSized appends a TPM2B: a two-byte length and the bytes.
func appendSized(to, b []byte) []byte {
	return append(binary.BigEndian.AppendUint16(to, uint16(len(b))), b...)
}
