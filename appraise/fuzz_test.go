package appraise_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/refval"
)

// small is a machine whose evidence is short, so that fuzzing is quick: it boots by
// one loader and runs three files of the recorded packages.
func small(t testing.TB) (in appraise.Input, list [][]byte) {
	t.Helper()
	const lockedDown = "lockdown=confidentiality"
	var options []byte // UTF-16 with its NUL
	for _, c := range []byte(lockedDown + "\x00") {
		options = append(options, c, 0)
	}
	tagged := func(tag uint32, measuredBytes []byte) []byte {
		return event(9, 6, measuredBytes, binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, tag), 0))
	}
	log := [][]byte{header(t), event(4, 0x80000003, []byte("loader"), nil), event(4, 0x80000003, []byte("kernel"), nil),
		tagged(0x8F3B22ED, options), tagged(0x8F3B22EC, []byte("initrd"))}
	for i := range 3 {
		ref := record().set.Ref(i)
		list = append(list, measured("sha256", ref.Digest[:], ref.Source.Path))
	}
	in = newForger(t).input(t, machine{eventLog: slices.Concat(log...), ima: list})
	codes, err := refval.NewCodeSet("small", []refval.Code{{Digest: keystead.Sum([]byte("loader")), Path: "/EFI/loader", Version: "1"}},
		[]refval.Boot{{Name: "only", Kernel: keystead.Sum([]byte("kernel")), Initrd: keystead.Sum([]byte("initrd")), CommandLine: lockedDown,
			Guarantees: []refval.Guarantee{refval.GuaranteeIMAPolicy}}})
	if err != nil {
		t.Fatal(err)
	}
	parts := in.Bundle.Parts()
	var status []byte
	for i := range 3 {
		s := record().set.Ref(i).Source
		stanza := "Package: " + s.Package + "\nStatus: install ok installed\nArchitecture: " + s.Architecture + "\nVersion: " + s.Version + "\n\n"
		if !bytes.Contains(status, []byte(stanza)) {
			status = append(status, stanza...)
		}
	}
	parts.Packages = &evidence.PackageList{Format: evidence.FormatDpkgStatus, Data: status}
	in.Bundle, in.CodeSets = bundle(t, parts), []*refval.CodeSet{codes}
	return in, list
}

// FuzzAppraise: no bundle makes appraisal panic, and none is allowed that does not
// hold the one statement which the accepted key signed, with logs that lead to it.
func FuzzAppraise(f *testing.F) {
	in, list := small(f)
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
