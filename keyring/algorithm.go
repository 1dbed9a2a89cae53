package keyring

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/cursor"
)

// An Algorithm is what the key of a domain is for, and the form of its two halves. The
// private half is 32 bytes for all of them.
type Algorithm string

// The algorithms. A key has one, from its first version on.
const (
	AlgorithmSecret    Algorithm = "secret"          // no public half: the agreed secret itself
	AlgorithmX25519    Algorithm = "x25519"          // RFC 7748: 32 bytes
	AlgorithmMLKEM768  Algorithm = "mlkem768-x25519" // HPKE's MLKEM768-X25519: a seed; 1,216 bytes
	AlgorithmSecp256k1 Algorithm = "secp256k1"       // SEC 2: a scalar; 33 bytes, compressed
	AlgorithmEd25519   Algorithm = "ed25519"         // RFC 8032: a seed; 32 bytes
)

// Algorithms returns all of them.
func Algorithms() []Algorithm {
	return []Algorithm{AlgorithmSecret, AlgorithmX25519, AlgorithmMLKEM768, AlgorithmSecp256k1, AlgorithmEd25519}
}

// maxPublic is the size of the longest public half, in bytes.
const maxPublic = 1216

// A Use is who works with a key.
type Use string

// The uses.
const (
	UseRelease Use = "release" // it is released to whom its policy accepts
	UseDerive  Use = "derive"  // nodes derive from it, and release it to nobody
)

// halves returns the private and the public half of a version of a key that was agreed on
// as s. The public half of AlgorithmSecret is empty.
func (s Secret) halves(domain keystead.Digest, p Purpose, a Algorithm) (private Secret, public []byte, err error) {
	if a == AlgorithmSecret {
		return s, nil, nil
	}
	if s.IsZero() {
		return Secret{}, nil, missing(p.String())
	}
	seed, err := hkdf.Expand(sha256.New, s.bytes[:], string(seedInfo(domain, p, a)), 48)
	if err != nil {
		return Secret{}, nil, err
	}
	switch a {
	case AlgorithmX25519:
		var k *ecdh.PrivateKey
		if k, err = ecdh.X25519().NewPrivateKey(seed[:SecretSize]); err == nil {
			public = k.PublicKey().Bytes()
		}
	case AlgorithmMLKEM768:
		var k hpke.PrivateKey
		if k, err = hpke.MLKEM768X25519().NewPrivateKey(seed[:SecretSize]); err == nil {
			public = k.PublicKey().Bytes()
		}
	case AlgorithmEd25519:
		public = ed25519.NewKeyFromSeed(seed[:SecretSize]).Public().(ed25519.PublicKey)
	case AlgorithmSecp256k1:
		scalar := scalarOf(seed)
		seed, public = scalar, secp256k1.PrivKeyFromBytes(scalar).PubKey().SerializeCompressed()
	default:
		err = fmt.Errorf("%q is no algorithm of this build", a)
	}
	if err != nil {
		return Secret{}, nil, err
	}
	return newSecret(seed[:SecretSize]), public, nil
}

// seedInfo names the one seed that is expanded from a version of a key.
func seedInfo(domain keystead.Digest, p Purpose, a Algorithm) []byte {
	b := cursor.AppendSized16(append([]byte("keystead key/2\n"), domain[:]...), p.Key)
	return cursor.AppendSized16(binary.BigEndian.AppendUint64(b, p.Number), string(a))
}

// scalarOf reduces 48 bytes to a scalar from 1 to n-1 of secp256k1, big-endian: with 128 bits
// more than the order no scalar is likelier than another (FIPS 186-5, A.2.1).
func scalarOf(seed []byte) []byte {
	var high, low, shift secp256k1.ModNScalar
	high.SetByteSlice(seed[:24])
	low.SetByteSlice(seed[24:])
	two := make([]byte, 25)
	two[0] = 1 // 2^192
	shift.SetByteSlice(two)
	high.Mul(&shift).Add(&low)
	if high.IsZero() {
		high.SetInt(1)
	}
	b := high.Bytes()
	return b[:]
}

func knownAlgorithm(a Algorithm) bool { return slices.Contains(Algorithms(), a) }
