package appraise_test

import (
	"bytes"
	"testing"

	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
)

// FuzzAppraise: no bundle makes appraisal panic, and none is allowed that does not
// hold the one statement which the accepted key signed, with logs that lead to it.
func FuzzAppraise(f *testing.F) {
	list := entries(f, record().Phases[0].IMALog)[1:]
	in := newForger(f).input(f, machine{ima: list})
	good := appraise.Appraise(in)
	if !good.Allowed() {
		f.Fatal(good.Err())
	}
	parts := in.Bundle.Parts()
	f.Add(in.Bundle.Bytes())
	for _, edit := range []func(*evidence.Parts){
		func(p *evidence.Parts) { p.TPM = nil },
		func(p *evidence.Parts) { p.EventLog = p.EventLog[:len(p.EventLog)/2] },
		func(p *evidence.Parts) { p.IMALog = append(bytes.Clone(p.IMALog), violated(list[0])...) },
		func(p *evidence.Parts) { p.IMALog, p.Packages = list[0], nil },
		func(p *evidence.Parts) { p.Binding.Nonce = nil },
	} {
		p := parts
		edit(&p)
		f.Add(bundle(f, p).Bytes())
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := evidence.Parse(raw)
		if err != nil {
			return
		}
		in := in
		in.Bundle = b
		v := appraise.Appraise(in)
		if v.Allowed() == (v.Err() != nil) || v.Allowed() && !v.Established() {
			t.Fatalf("allowed %t, established %t, error %v", v.Allowed(), v.Established(), v.Err())
		}
		if !v.Allowed() {
			return
		}
		got, want := v.Claims(), good.Claims()
		if !bytes.Equal(b.Parts().TPM.Attest, parts.TPM.Attest) || got.Software.Entries != want.Software.Entries || got.Software.Named != want.Software.Named {
			t.Fatalf("allowed with another statement or other software: %+v", got)
		}
	})
}
