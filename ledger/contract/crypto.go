package contract

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/binary"
	"math/big"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	signatures "github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
	"golang.org/x/crypto/blake2b"
	"golang.org/x/crypto/sha3"
)

// Hashes that contracts may ask for.
const (
	hashSHA256    = 1
	hashKeccak256 = 2
	hashBLAKE2b   = 3 // of 32 bytes
)

// MaxHashed is how many bytes are hashed, or verified, at once.
const MaxHashed = 1 << 20

// hash: algorithm, address, size, where the 32 bytes go. It returns 1, or 0 for an algorithm
// that there is not.
func hash(r *run, m memory, a []uint64) uint64 {
	b := m.read(a[1], a[2], MaxHashed, "what is hashed")
	r.use(500 + int64(len(b))*4)
	var d [32]byte
	switch uint32(a[0]) {
	case hashSHA256:
		d = sha256.Sum256(b)
	case hashKeccak256:
		h := sha3.NewLegacyKeccak256()
		h.Write(b)
		h.Sum(d[:0])
	case hashBLAKE2b:
		d = blake2b.Sum256(b)
	default:
		return 0
	}
	m.write(a[3], d[:])
	return 1
}

// Signatures that contracts may verify.
const (
	verifyEd25519   = 1 // RFC 8032, over the message
	verifyP256      = 2 // FIPS 186-5, over its SHA-256; key of 65 or 33 bytes, signature r | s
	verifySecp256k1 = 3 // over a digest of 32 bytes, low s; key of 65 or 33 bytes, signature r | s
)

// verify: algorithm, key, its size, message, its size, signature, its size. It returns 1 for a
// good signature, else 0.
func verify(r *run, m memory, a []uint64) uint64 {
	r.use(150_000)
	key := m.read(a[1], a[2], 128, "a key")
	message := m.read(a[3], a[4], MaxHashed, "what is verified")
	signature := m.read(a[5], a[6], 128, "a signature")
	r.use(int64(len(message)) * 4)
	good := false
	switch uint32(a[0]) {
	case verifyEd25519:
		good = len(key) == ed25519.PublicKeySize && ed25519.Verify(key, message, signature)
	case verifyP256:
		good = p256(key, message, signature)
	case verifySecp256k1:
		good = k256(key, message, signature)
	}
	if good {
		return 1
	}
	return 0
}

func p256(key, message, signature []byte) bool {
	if len(key) == 33 {
		x, y := elliptic.UnmarshalCompressed(elliptic.P256(), key)
		if x == nil {
			return false
		}
		key = append(append([]byte{4}, x.FillBytes(make([]byte, 32))...), y.FillBytes(make([]byte, 32))...)
	}
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), key)
	if err != nil || len(signature) != 64 {
		return false
	}
	d := sha256.Sum256(message)
	return ecdsa.Verify(public, d[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:]))
}

func k256(key, digest, signature []byte) bool {
	public, err := secp256k1.ParsePubKey(key)
	if err != nil || len(digest) != 32 || len(signature) != 64 {
		return false
	}
	var r, s secp256k1.ModNScalar
	if r.SetByteSlice(signature[:32]) || s.SetByteSlice(signature[32:]) || s.IsOverHalfOrder() {
		return false
	}
	return signatures.NewSignature(&r, &s).Verify(digest, public)
}

// recoverKey: digest of 32 bytes, signature r | s | v of 65 (v 0 or 1, low s), where the key goes:
// 64 bytes, X | Y. It returns 1, or 0 where there is no key.
func recoverKey(r *run, m memory, a []uint64) uint64 {
	r.use(200_000)
	digest, signature := m.read(a[0], 32, 32, "a digest"), m.read(a[1], 65, 65, "a signature")
	var s secp256k1.ModNScalar
	if signature[64] > 1 || s.SetByteSlice(signature[32:64]) || s.IsOverHalfOrder() {
		return 0
	}
	compact := append([]byte{signature[64] + 27}, signature[:64]...)
	public, _, err := signatures.RecoverCompact(compact, digest)
	if err != nil {
		return 0
	}
	m.write(a[2], public.SerializeUncompressed()[1:])
	return 1
}

// stream gives a call its random bytes: SHA-256 over "keystead contract random/1", a newline,
// the seed and the number of the block.
type stream struct {
	seed  [32]byte
	block uint64
	left  []byte
}

func newStream(seed [32]byte) *stream { return &stream{seed: seed} }

func (s *stream) read(b []byte) {
	for len(b) > 0 {
		if len(s.left) == 0 {
			d := sha256.Sum256(binary.BigEndian.AppendUint64(append([]byte("keystead contract random/1\n"), s.seed[:]...), s.block))
			s.left = d[:]
			s.block++
		}
		n := copy(b, s.left)
		b, s.left = b[n:], s.left[n:]
	}
}
