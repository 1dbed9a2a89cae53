package ima

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
)

// A Key verifies IMA signatures. Make it by NewKey.
type Key struct {
	public crypto.PublicKey
	id     [4]byte
}

// NewKey returns the key for signatures that name it as evmctl and the kernel's keyrings
// do: by the last four bytes of SHA-1 over the key's bits. It is RSA, or ECDSA over
// P-256 or P-384.
func NewKey(public crypto.PublicKey) (Key, error) {
	var bits []byte
	switch p := public.(type) {
	case *rsa.PublicKey:
		bits = x509.MarshalPKCS1PublicKey(p)
	case *ecdsa.PublicKey:
		if p.Curve != elliptic.P256() && p.Curve != elliptic.P384() {
			return Key{}, errors.New("an ECDSA key is over P-256 or P-384")
		}
		var err error
		if bits, err = p.Bytes(); err != nil {
			return Key{}, err
		}
	default:
		return Key{}, fmt.Errorf("a key of type %T signs no files", public)
	}
	k := Key{public: public}
	sum := sha1.Sum(bits) // a name, not a proof
	copy(k.id[:], sum[len(sum)-4:])
	return k, nil
}

// The signature in security.ima (Linux security/integrity/integrity.h,
// struct signature_v2_hdr), after the type of the attribute.
const (
	digsigType    = 3 // EVM_IMA_XATTR_DIGSIG
	digsigVersion = 2
	digsigHead    = 9
)

// digsigHashes are of enum hash_algo (include/uapi/linux/hash_info.h).
var digsigHashes = map[byte]struct {
	name string
	hash crypto.Hash
}{4: {"sha256", crypto.SHA256}, 5: {"sha384", crypto.SHA384}, 6: {"sha512", crypto.SHA512}}

// Why a signature does not name a file.
var (
	ErrNotSigned     = errors.New("carries no IMA signature of version 2")
	ErrSignatureWeak = errors.New("is signed over a hash that does not suffice, or another than it is measured by")
	ErrSignerUnknown = errors.New("is signed by a key that is not accepted")
	ErrSignature     = errors.New("carries a signature that is not over what was measured")
)

// Signable reports whether the entry's template puts a file's signature in its third
// field; of others, that field is something else.
func (e Entry) Signable() bool {
	switch string(e.Template) {
	case "ima-sig", "ima-sigv2", "ima-modsig":
		return true
	}
	return false
}

// Signed verifies the entry's signature over the file's digest, by a key that the
// signature names, and returns the number of that key. What the log says of the path
// is not signed: the signature names content, wherever it lies.
func (e Entry) Signed(keys []Key) (number int, err error) {
	s := e.Signature
	if len(s) < digsigHead+1 || s[0] != digsigType || s[1] != digsigVersion || int(binary.BigEndian.Uint16(s[7:])) != len(s)-digsigHead {
		return 0, ErrNotSigned
	}
	h, ok := digsigHashes[s[2]]
	if !ok || h.name != e.Alg || len(e.FileDigest) != h.hash.Size() {
		return 0, ErrSignatureWeak
	}
	err = ErrSignerUnknown
	for i, k := range keys {
		if k.id != [4]byte(s[3:7]) {
			continue
		}
		if k.verify(h.hash, e.FileDigest, s[digsigHead:]) {
			return i, nil
		}
		err = ErrSignature
	}
	return 0, err
}

func (k Key) verify(hash crypto.Hash, digest, signature []byte) bool {
	switch p := k.public.(type) {
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(p, hash, digest, signature) == nil
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(p, digest, signature)
	}
	return false
}
