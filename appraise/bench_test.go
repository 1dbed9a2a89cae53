package appraise_test

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sync"
	"testing"

	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/ima"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/refval"
)

const (
	benchEntries = 100_000
	benchDigests = 1_000_000
)

// synthetic is a machine that ran a tenth of the files of a set of a million: 100
// packages of 10,000 files each.
var synthetic = sync.OnceValues(func() (m machine, set *refval.Set) {
	b := refval.NewBuilder(refval.SelectAll)
	for p := range 100 {
		files := make([]refval.File, benchDigests/100)
		for i := range files {
			n := p*len(files) + i
			digest := sha256.Sum256(binary.BigEndian.AppendUint32(nil, uint32(n)))
			files[i] = refval.File{Path: fmt.Sprintf("/usr/lib/x86_64-linux-gnu/library-%07d.so", n), Digest: digest}
			if n%(benchDigests/benchEntries) == 0 {
				m.ima = append(m.ima, measured("sha256", digest[:], files[i].Path))
			}
		}
		err := b.Add(refval.Package{Name: fmt.Sprintf("package-%03d", p), Version: "1", Architecture: "amd64", Strength: refval.StrengthRepositoryRehash},
			[]refval.Repository{{Origin: "Synthetic", Signers: []string{"0"}}}, files)
		if err != nil {
			panic(err)
		}
	}
	set, err := b.Set()
	if err != nil {
		panic(err)
	}
	return m, set
})

// BenchmarkAppraise judges a Google machine's quote and event log, beside the bare
// verification of that quote, the recorded machine whole, and a list of 100,000 synthetic entries against a
// million digests, beside parsing and replaying it alone.
func BenchmarkAppraise(b *testing.B) {
	allowed := func(b *testing.B, in appraise.Input) {
		b.ReportAllocs()
		for b.Loop() {
			if v := appraise.Appraise(in); !v.Allowed() {
				b.Fatal(v.Err())
			}
		}
	}
	b.Run("quote", func(b *testing.B) { allowed(b, gceInput(b, evidence.SHA256)) })
	b.Run("quote-bare", func(b *testing.B) {
		p := gceInput(b, evidence.SHA256).Bundle.Parts().TPM
		ak, err := tpm2.ParsePublic(p.AKPublic)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			if _, err := tpm2.VerifyQuote(ak, p.Attest, p.Signature); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("machine", func(b *testing.B) {
		in, _ := onStage(b).input(b, "packaged")
		allowed(b, in)
	})
	b.Run("machine-ek", func(b *testing.B) { // what the endorsement certificate alone takes of that
		in, _ := onStage(b).input(b, "packaged")
		ek, err := tpm2.ParsePublic(in.Key.EKPublic)
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if _, err := tpm2.VerifyEK(in.Key.EKCertificate, ek, in.EKRoots, in.Time); err != nil {
				b.Fatal(err)
			}
		}
	})
	list := func(b *testing.B) (appraise.Input, evidence.PCRs) {
		m, set := synthetic()
		in := newForger(b).input(b, m)
		in.References = []*refval.Set{record().set, set}
		m.eventLog = record().EventLog
		_, registers := m.registers(b)
		parts := in.Bundle.Parts()
		parts.Packages = nil
		in.Bundle, in.Policy = bundle(b, parts), compile(b, "keystead-policy/1\nname bench\nminimum-assurance test\nsoftware report\nboot accepted\n\nrule named\n  require software.named == software.entries - 1\n  otherwise look\n")
		return in, registers
	}
	rate := func(b *testing.B) { b.ReportMetric(float64(b.N*benchEntries)/b.Elapsed().Seconds(), "entries/s") }
	b.Run("list", func(b *testing.B) {
		in, _ := list(b)
		b.ResetTimer()
		allowed(b, in)
		rate(b)
	})
	b.Run("list-replay", func(b *testing.B) {
		in, registers := list(b)
		log := in.Bundle.Parts().IMALog
		b.ResetTimer()
		for b.Loop() {
			if _, err := ima.Open(log, []evidence.PCRs{registers}, ima.Register); err != nil {
				b.Fatal(err)
			}
		}
		rate(b)
	})
}
