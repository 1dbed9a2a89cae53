package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/ima"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/internal/forger"
	"github.com/keystead/keystead/internal/recording"
	"github.com/keystead/keystead/policy"
	"github.com/keystead/keystead/refval"
)

// steadyPolicy asks for what the shipped ones do of the software, of a key that is known
// by name.
const steadyPolicy = `keystead-policy/1
name steady
minimum-assurance test
software every-entry
boot accepted

rule registers-quoted
  require [0, 1, 2, 3, 4, 5, 6, 7, 9, 10].all(r, r in quote.pcrs)
  otherwise quote them

rule firmware-log
  require boot.events > 0 && boot.separators_all
  otherwise send it

rule files-measured
  require software.entries > 1
  otherwise measure them

rule no-violations
  require software.violations == 0
  otherwise reboot

rule packages-listed
  require size(packages.unlisted) == 0
  otherwise list them
`

// steadyRows judges a host that has run ten more files since its last evidence, of which
// the verifier replayed 100,000 entries: the recorded boot, a synthetic list, a key of ours.
// And it judges those 100,000 as of a host of which nothing is known.
func steadyRows() ([]row, error) {
	rec, err := recording.Load(recording.Committed())
	if err != nil {
		return nil, err
	}
	h, err := newSteadyHost(rec)
	if err != nil {
		return nil, err
	}
	begun, state := appraise.Follow(h.input(check(evidence.New(h.parts(imaEntries))), nil))
	if !begun.Allowed() || state == nil {
		return nil, fmt.Errorf("the whole log: %w", begun.Err())
	}
	next := check(evidence.Continue(h.parts(imaEntries+10), state.Reference())).Bytes()
	steady := func() {
		v, s := appraise.Follow(h.input(check(evidence.Parse(next)), state))
		if !v.Allowed() || s == nil || v.Claims().Software.Entries != imaEntries+11 {
			panic(v.Err())
		}
	}
	tpm := check(evidence.Parse(next)).Parts().TPM
	bare, err := bareVerification(tpm.AKPublic, tpm.Attest, tpm.Signature)
	if err != nil {
		return nil, err
	}
	t, tBare, over := pair(steady, bare)
	raw := check(evidence.New(h.parts(imaEntries))).Bytes()
	cold := func() {
		if v := appraise.Appraise(h.input(check(evidence.Parse(raw)), nil)); !v.Allowed() {
			panic(v.Err())
		}
	}
	tCold, tHash, overHash := pair(cold, func() { hashAlone(h.log[h.ends[0]:h.ends[imaEntries]]) })
	rate, rateHash := imaEntries/tCold.Seconds(), imaEntries/tHash.Seconds()
	return []row{{"steady re-appraisal: quote and 10 new IMA entries after 100,000, parsing and verdict included",
		fmt.Sprintf("%.2f x (%v)", over, t.Round(100)), "<= 1.5 x",
		fmt.Sprintf("bare ECDSA P-256 verification %v; %d bytes of state", tBare.Round(100), state.Size()), over <= 1.5},
		{"cold IMA log of 100,000 entries: bundle parsed, quote verified, log replayed and matched against 1 M digests, verdict, one core",
			fmt.Sprintf("%.2f M/s (%v an entry)", rate/1e6, (tCold / imaEntries).Round(time.Nanosecond)), ">= 1.5 M/s",
			fmt.Sprintf("the SHA-256 of its entries alone: %.2f M/s (ratio %.2f)", rateHash/1e6, overHash), rate >= 1.5e6}}, nil
}

// A steadyHost ran files of a hundred packages.
type steadyHost struct {
	rec    *recording.Recording
	key    *forger.Forger
	in     appraise.Input
	log    []byte
	ends   []int // of entries in log, the boot aggregate first
	banks  []evidence.PCRs
	values [][]byte // of IMA's register, after each entry
	status []byte
}

func newSteadyHost(rec *recording.Recording) (*steadyHost, error) {
	set, digests, err := hundredPackages()
	if err != nil {
		return nil, err
	}
	recorded, err := refval.Parse(rec.Reference)
	if err != nil {
		return nil, err
	}
	codes, err := refval.ParseCodeSet(rec.CodeSet)
	if err != nil {
		return nil, err
	}
	rules, err := policy.Compile([]byte(steadyPolicy), appraise.Vocabulary())
	if err != nil {
		return nil, err
	}
	h := &steadyHost{rec: rec, key: forger.New(1)}
	for _, p := range rec.Phases[0].PCRs {
		if p.Bank == evidence.SHA256 {
			h.banks = append(h.banks, p)
		}
	}
	name := check(tpm2.ParsePublic(h.key.Public())).Name()
	h.in = appraise.Input{Key: appraise.AcceptedKey{Name: name}, References: []*refval.Set{recorded, set}, CodeSets: []*refval.CodeSet{codes}, Policy: rules,
		Time: time.Unix(1_800_000_000, 0), Expect: evidence.Binding{Purpose: evidence.PurposeVerify, Nonce: []byte("the nonce of a bench")}}
	h.measure(digests)
	for p := range 100 {
		h.status = fmt.Appendf(h.status, "Package: package-%03d\nStatus: install ok installed\nArchitecture: all\nVersion: 1\n\n", p)
	}
	return h, nil
}

// measure writes the list: the recorded boot_aggregate, then one entry a digest.
func (h *steadyHost) measure(digests []keystead.Digest) {
	n := check(recording.PrefixSize(h.rec.Phases[0].IMALog, 1))
	h.log = bytes.Clone(h.rec.Phases[0].IMALog[:n])
	synthetic, _ := syntheticLog(digests)
	h.log = append(h.log, synthetic...)
	pcr := evidence.PCRs{Bank: evidence.SHA256}
	for at := 0; at < len(h.log); {
		name := int(binary.LittleEndian.Uint32(h.log[at+24:]))
		size := int(binary.LittleEndian.Uint32(h.log[at+28+name:]))
		data := h.log[at+32+name : at+32+name+size]
		sum := sha256.Sum256(data)
		pcr.Extend(ima.Register, sum[:])
		at += 32 + name + size
		h.ends, h.values = append(h.ends, at), append(h.values, pcr.Value[ima.Register])
	}
}

// parts are the evidence after n entries and the boot aggregate.
func (h *steadyHost) parts(n int) evidence.Parts {
	banks := []evidence.PCRs{h.banks[0]}
	banks[0].Value[ima.Register] = h.values[n]
	return evidence.Parts{Binding: h.in.Expect, TPM: h.key.Quote(h.in.Expect, banks...), EventLog: h.rec.EventLog, IMALog: h.log[:h.ends[n]],
		Packages: &evidence.PackageList{Format: evidence.FormatDpkgStatus, Data: h.status}}
}

func (h *steadyHost) input(b evidence.Bundle, s *appraise.State) appraise.Input {
	in := h.in
	in.Bundle, in.Prior = b, s
	return in
}

// hundredPackages makes a set of a million files, and the digests of those that ran.
func hundredPackages() (*refval.Set, []keystead.Digest, error) {
	b := refval.NewBuilder(refval.SelectAll)
	repo := refval.Repository{Origin: "synthetic", Suite: "bench", Codename: "bench", Release: keystead.Sum([]byte("bench")), Signers: []string{"00"}}
	var used []keystead.Digest
	for p := range 100 {
		var files []refval.File
		for f := range references / 100 {
			path := fmt.Sprintf("/usr/lib/package-%03d/file-%05d", p, f)
			d := keystead.Sum([]byte(path))
			files = append(files, refval.File{Path: path, Digest: d})
			if f <= imaEntries/100 {
				used = append(used, d)
			}
		}
		pkg := refval.Package{Name: fmt.Sprintf("package-%03d", p), Version: "1", Architecture: "all", Digest: keystead.Sum([]byte{byte(p)}), Strength: refval.StrengthRepositoryRehash}
		if err := b.Add(pkg, []refval.Repository{repo}, files); err != nil {
			return nil, nil, err
		}
	}
	set, err := b.Set()
	return set, used, err
}
