package ima

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/keystead/keystead/evidence"
)

// An item is one entry to be written as a kernel would write it.
type item struct {
	pcr       int
	template  string
	digest    []byte // contents of the field d-ng, or the 20 bytes of the old template
	path      string
	more      [][]byte // further fields
	violation bool
}

func u32(n int) []byte { return binary.LittleEndian.AppendUint32(nil, uint32(n)) }

func ng(alg string, digest []byte) []byte { return append([]byte(alg+":\x00"), digest...) }

// sig is an ordinary entry of Debian's default template.
func sig(path string, content string) item {
	d := sha256.Sum256([]byte(content))
	return item{pcr: Register, template: "ima-sig", digest: ng("sha256", d[:]), path: path, more: [][]byte{nil}}
}

// data is what the kernel hashes; in the old template it is not what it writes.
func (it item) data() []byte {
	if it.template == "ima" {
		b := append(bytes.Clone(it.digest), it.path...)
		return append(b, make([]byte, 276-len(b))...)
	}
	b := slices.Concat(u32(len(it.digest)), it.digest, u32(len(it.path)+1), []byte(it.path), []byte{0})
	for _, f := range it.more {
		b = slices.Concat(b, u32(len(f)), f)
	}
	return b
}

func (it item) bytes() []byte {
	hash := sha1.Sum(it.data())
	if it.violation {
		hash = [20]byte{}
	}
	b := slices.Concat(u32(it.pcr), hash[:], u32(len(it.template)), []byte(it.template))
	if it.template == "ima" {
		return slices.Concat(b, it.digest, u32(len(it.path)), []byte(it.path))
	}
	return slices.Concat(b, u32(len(it.data())), it.data())
}

func write(items []item) []byte {
	var b []byte
	for _, it := range items {
		b = append(b, it.bytes()...)
	}
	return b
}

// quote extends fresh registers as the kernel does: violations by all ones.
func quote(items []item, banks ...evidence.Bank) []evidence.PCRs {
	var out []evidence.PCRs
	for _, b := range banks {
		p := evidence.PCRs{Bank: b}
		for i := range 10 {
			p.Value[i] = bytes.Repeat([]byte{byte(i)}, b.Size())
		}
		for _, it := range items {
			d := bytes.Repeat([]byte{0xff}, b.Size())
			if !it.violation {
				h := b.Hash().New()
				h.Write(it.data())
				d = h.Sum(nil)
			}
			p.Extend(it.pcr, d)
		}
		out = append(out, p)
	}
	return out
}

// host is a list of n entries that starts with the boot aggregate of quote's registers.
func host(n int) []item {
	h := sha256.New()
	for i := range 10 {
		h.Write(bytes.Repeat([]byte{byte(i)}, 32))
	}
	items := []item{{pcr: Register, template: "ima-sig", digest: ng("sha256", h.Sum(nil)), path: bootAggregate, more: [][]byte{nil}}}
	for i := 1; i < n; i++ {
		items = append(items, sig(fmt.Sprintf("/usr/lib/x86_64-linux-gnu/library-%05d.so", i), fmt.Sprint(i)))
	}
	return items
}
