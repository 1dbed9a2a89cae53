package main

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/ima"
	"github.com/keystead/keystead/refval"
)

const (
	imaEntries = 100_000
	references = 1_000_000
)

// imaRows parses, replays and matches a log of which every entry is among a million
// reference digests.
func imaRows() ([]row, error) {
	set, digests, err := millionSet()
	if err != nil {
		return nil, err
	}
	raw, quoted := syntheticLog(digests)
	entries := func() {
		list := check(ima.Open(raw, quoted, ima.Register))
		named := 0
		for _, e := range list.All() {
			if _, ok := set.Lookup(keystead.Digest(e.FileDigest)); ok {
				named++
			}
		}
		if named != imaEntries {
			panic(fmt.Sprintf("%d of %d entries named", named, imaEntries))
		}
	}
	hashing := func() { hashAlone(raw) }
	t, bare, over := pair(entries, hashing)
	rate := imaEntries / t.Seconds()
	return []row{{"IMA entries parsed, replayed, matched against 1 M digests, one core",
		fmt.Sprintf("%.2f M/s (%v an entry)", rate/1e6, (t / imaEntries).Round(time.Nanosecond)), ">= 1 M/s",
		fmt.Sprintf("the SHA-256 of it alone: %.2f M/s (ratio %.2f)", imaEntries/bare.Seconds()/1e6, over), rate >= 1e6}}, nil
}

// millionSet makes a set of a thousand packages and returns the digests that the log uses.
func millionSet() (*refval.Set, []keystead.Digest, error) {
	b := refval.NewBuilder(refval.SelectAll)
	repo := refval.Repository{Origin: "synthetic", Suite: "bench", Codename: "bench", Release: keystead.Sum([]byte("bench")), Signers: []string{"00"}}
	var used []keystead.Digest
	for p := range 1000 {
		var files []refval.File
		for f := range references / 1000 {
			path := fmt.Sprintf("/usr/lib/package-%03d/file-%04d", p, f)
			d := keystead.Sum([]byte(path))
			files = append(files, refval.File{Path: path, Digest: d})
			if f < imaEntries/1000 {
				used = append(used, d)
			}
		}
		pkg := refval.Package{Name: fmt.Sprintf("package-%03d", p), Version: "1", Architecture: "all", Digest: keystead.Sum([]byte{byte(p), byte(p >> 8)}), Strength: refval.StrengthRepositoryRehash}
		if err := b.Add(pkg, []refval.Repository{repo}, files); err != nil {
			return nil, nil, err
		}
	}
	set, err := b.Set()
	return set, used, err
}

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
