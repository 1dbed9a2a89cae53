package main

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/ima"
)

const (
	imaEntries = 100_000
	references = 1_000_000
)

// syntheticLog writes ima-ng records as the kernel does, and the register to which they lead.
func syntheticLog(digests []keystead.Digest) ([]byte, []evidence.PCRs) {
	var raw []byte
	pcrs := evidence.PCRs{Bank: evidence.SHA256}
	u32 := func(b []byte, n int) []byte { return binary.LittleEndian.AppendUint32(b, uint32(n)) }
	for i, d := range digests {
		path := fmt.Sprintf("/usr/lib/package-%03d/file-%04d\x00", i/100, i%100)
		data := u32(nil, len("sha256:\x00")+len(d))
		data = append(append(data, "sha256:\x00"...), d[:]...)
		data = append(u32(data, len(path)), path...)
		raw = u32(raw, ima.Register)
		raw = append(raw, make([]byte, 20)...) // SHA-1 template hash, below
		raw[len(raw)-1] = 1                    // not all zero: no violation
		raw = append(u32(raw, len("ima-ng")), "ima-ng"...)
		raw = append(u32(raw, len(data)), data...)
		digest := sha256.Sum256(data)
		pcrs.Extend(ima.Register, digest[:])
	}
	return raw, []evidence.PCRs{pcrs}
}

// hashAlone does the two hashes an entry that no verifier can spare, and nothing else.
func hashAlone(raw []byte) {
	const header = 4 + 20 + 4 + len("ima-ng") + 4
	var register [64]byte
	for len(raw) > 0 {
		n := int(binary.LittleEndian.Uint32(raw[header-4:]))
		digest := sha256.Sum256(raw[header : header+n])
		copy(register[32:], digest[:])
		next := sha256.Sum256(register[:])
		copy(register[:32], next[:])
		raw = raw[header+n:]
	}
}
