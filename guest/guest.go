//go:build wasip1

package guest

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unsafe"
)

//go:wasmimport keystead input
func hostInput() uint32

//go:wasmimport keystead result
func hostResult(to unsafe.Pointer)

//go:wasmimport keystead output
func hostOutput(b unsafe.Pointer, size uint32)

//go:wasmimport keystead get
func hostGet(key unsafe.Pointer, size uint32) uint32

//go:wasmimport keystead put
func hostPut(key unsafe.Pointer, keySize uint32, value unsafe.Pointer, valueSize uint32)

//go:wasmimport keystead delete
func hostDelete(key unsafe.Pointer, size uint32)

//go:wasmimport keystead scan
func hostScan(from unsafe.Pointer, fromSize uint32, to unsafe.Pointer, toSize uint32, limit uint32) uint32

//go:wasmimport keystead caller
func hostCaller() uint32

//go:wasmimport keystead clock
func hostClock() uint64

//go:wasmimport keystead random
func hostRandom(to unsafe.Pointer, size uint32)

//go:wasmimport keystead emit
func hostEmit(topic unsafe.Pointer, topicSize uint32, data unsafe.Pointer, dataSize uint32)

//go:wasmimport keystead refuse
func hostRefuse(why unsafe.Pointer, size uint32)

//go:wasmimport keystead log
func hostLog(line unsafe.Pointer, size uint32)

//go:wasmimport keystead hash
func hostHash(algorithm uint32, b unsafe.Pointer, size uint32, to unsafe.Pointer) uint32

//go:wasmimport keystead verify
func hostVerify(algorithm uint32, key unsafe.Pointer, keySize uint32, message unsafe.Pointer, messageSize uint32, signature unsafe.Pointer, signatureSize uint32) uint32

//go:wasmimport keystead recover
func hostRecover(digest, signature, to unsafe.Pointer) uint32

func at(b []byte) (unsafe.Pointer, uint32) {
	return unsafe.Pointer(unsafe.SliceData(b)), uint32(len(b))
}

// result fetches the value that the last function has, of that size.
func result(size uint32) []byte {
	b := make([]byte, size)
	if size > 0 {
		hostResult(unsafe.Pointer(unsafe.SliceData(b)))
	}
	return b
}

// Input returns what the caller gave, at most 64 KiB.
func Input() []byte { return result(hostInput()) }

// Read reads the input as JSON. It refuses the call where it is none, or has fields that v lacks.
func Read(v any) {
	d := json.NewDecoder(strings.NewReader(string(Input())))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		Refuse("the input: %v", err)
	}
}

// Output sets what the call answers, at most 64 KiB. The last one counts.
func Output(b []byte) { hostOutput(at(b)) }

// Answer sets the answer, as JSON.
func Answer(v any) { Output(encode(v)) }

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		Refuse("the answer: %v", err)
	}
	return b
}

// Get returns a key's value, with what this call put.
func Get(key string) (value []byte, ok bool) {
	n := hostGet(at([]byte(key)))
	if n == 1<<32-1 {
		return nil, false
	}
	return result(n), true
}

// Put sets a key, of 1 to 256 bytes, to a value of at most 64 KiB.
func Put(key string, value []byte) {
	k, kn := at([]byte(key))
	v, vn := at(value)
	hostPut(k, kn, v, vn)
}

// Load reads a key's value as JSON, and reports whether there is one.
func Load(key string, v any) bool {
	b, ok := Get(key)
	if ok {
		if err := json.Unmarshal(b, v); err != nil {
			Refuse("the value of %s: %v", key, err)
		}
	}
	return ok
}

// Store puts a value as JSON.
func Store(key string, v any) { Put(key, encode(v)) }

// Delete removes a key.
func Delete(key string) { hostDelete(at([]byte(key))) }

// A Pair is a key with its value.
type Pair struct {
	Key   string
	Value []byte
}

// Scan returns the pairs from a key on and before another, ascending, at most so many and at
// most 1,024. An empty end is that of all keys.
func Scan(from, to string, limit int) (out []Pair) {
	f, fn := at([]byte(from))
	t, tn := at([]byte(to))
	b := result(hostScan(f, fn, t, tn, uint32(limit)))
	next := func() []byte {
		n := binary.LittleEndian.Uint32(b)
		x := b[4 : 4+n]
		b = b[4+n:]
		return x
	}
	for len(b) > 0 {
		out = append(out, Pair{string(next()), next()})
	}
	return out
}

// A Caller is who calls, as the nodes know it.
type Caller struct {
	Kind  string // member, user, host, node, app or anyone
	Name  string // empty of anyone
	Roles []string
}

// String writes the caller as KIND:NAME.
func (c Caller) String() string { return c.Kind + ":" + c.Name }

// Who returns the caller.
func Who() Caller {
	parts := strings.Split(string(result(hostCaller())), "\n")
	c := Caller{Kind: parts[0]}
	if len(parts) > 1 {
		c.Name, c.Roles = parts[1], parts[2:]
	}
	return c
}

// Now returns the time of the domain at which the call was executed.
func Now() time.Time { return time.UnixMilli(int64(hostClock())).UTC() }

// Random returns random bytes of this call. Its executor knows them before, and they stand in
// the call's entry: they are no secret.
func Random(n int) []byte {
	b := make([]byte, n)
	hostRandom(at(b))
	return b
}

// Emit tells whoever listens: a topic of at most 256 bytes, data of at most 4 KiB.
func Emit(topic string, data []byte) {
	t, tn := at([]byte(topic))
	d, dn := at(data)
	hostEmit(t, tn, d, dn)
}

// Refuse ends the call: nothing of it is written, and the caller is told why. It does not return.
func Refuse(format string, args ...any) {
	hostRefuse(at([]byte(fmt.Sprintf(format, args...))))
	panic("unreachable")
}

// Log adds a line to the log of the call, which has no effect.
func Log(format string, args ...any) { hostLog(at([]byte(fmt.Sprintf(format, args...)))) }

func hash(algorithm uint32, b []byte) (d [32]byte) {
	p, n := at(b)
	hostHash(algorithm, p, n, unsafe.Pointer(&d))
	return d
}

// SHA256, Keccak256 and BLAKE2b return digests of 32 bytes.
func SHA256(b []byte) [32]byte { return hash(1, b) }

// Keccak256 is Ethereum's.
func Keccak256(b []byte) [32]byte { return hash(2, b) }

// BLAKE2b is that of 32 bytes, without a key.
func BLAKE2b(b []byte) [32]byte { return hash(3, b) }

func verify(algorithm uint32, key, message, signature []byte) bool {
	k, kn := at(key)
	m, mn := at(message)
	s, sn := at(signature)
	return hostVerify(algorithm, k, kn, m, mn, s, sn) == 1
}

// VerifyEd25519 reports whether a signature is by the key over the message (RFC 8032).
func VerifyEd25519(key, message, signature []byte) bool { return verify(1, key, message, signature) }

// VerifyP256 does so for ECDSA over the message's SHA-256; the signature is r | s.
func VerifyP256(key, message, signature []byte) bool { return verify(2, key, message, signature) }

// VerifySecp256k1 does so over a digest of 32 bytes; the signature is r | s, with the low s.
func VerifySecp256k1(key, digest, signature []byte) bool { return verify(3, key, digest, signature) }

// Recover returns the key, X | Y, by which a digest was signed: r | s | v, with the low s, and v
// 0 or 1.
func Recover(digest [32]byte, signature [65]byte) (key [64]byte, ok bool) {
	ok = hostRecover(unsafe.Pointer(&digest), unsafe.Pointer(&signature), unsafe.Pointer(&key)) == 1
	return key, ok
}
