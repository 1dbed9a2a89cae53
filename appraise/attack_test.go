package appraise_test

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/internal/swtpm"
)

// TestWrongNonce: evidence for another question, told apart by what the bundle says
// of itself.
func TestWrongNonce(t *testing.T) {
	s := onStage(t)
	in, _ := s.input(t, "packaged")
	in.Expect.Nonce = []byte("another nonce")
	demand(t, "another nonce", in, keystead.ReasonBundleReplayed)

	in = s.edited(t, func(p *evidence.Parts) { p.Binding.Nonce = []byte("another nonce") })
	in.Expect.Nonce = []byte("another nonce")
	demand(t, "a bundle that claims the new nonce", in, keystead.ReasonNonceMismatch)

	in, _ = s.input(t, "packaged")
	in.Expect.Purpose = "admit"
	f := first(demand(t, "another purpose", in, keystead.ReasonBundleReplayed))
	if !strings.Contains(f.Want, `"admit"`) || !strings.Contains(f.Got, `"verify"`) {
		t.Errorf("another purpose: the finding names neither: %v", f)
	}
	in.Expect = evidence.Binding{Purpose: evidence.PurposeRaw, Nonce: question.Nonce}
	demand(t, "raw for verify", in, keystead.ReasonBundleReplayed)

	in, _ = s.input(t, "packaged")
	in.Expect.SubjectKey = []byte("a key that is to speak for the host")
	f = first(demand(t, "another subject key", in, keystead.ReasonBundleReplayed))
	if !strings.Contains(f.Want, "with subject key sha256:") {
		t.Errorf("another subject key: the finding does not name it: %v", f)
	}
	for _, purpose := range []string{evidence.PurposeVerify, evidence.PurposeRaw} {
		empty := evidence.Binding{Purpose: purpose}
		in := newForger(t).input(t, machine{})
		parts := in.Bundle.Parts()
		_, registers := machine{eventLog: parts.EventLog}.registers(t)
		parts.Binding, parts.TPM = empty, newForger(t).quote(t, empty.QualifyingData(), registers)
		in.Bundle, in.Expect = bundle(t, parts), empty
		demand(t, "no nonce, purpose "+purpose, in, keystead.ReasonNonceMismatch)
	}

	raw := evidence.Binding{Purpose: evidence.PurposeRaw, Nonce: question.Nonce}
	in = newForger(t).input(t, machine{})
	parts := in.Bundle.Parts()
	_, registers := machine{eventLog: parts.EventLog}.registers(t)
	parts.Binding, parts.TPM = raw, newForger(t).quote(t, raw.QualifyingData(), registers)
	in.Bundle, in.Expect = bundle(t, parts), raw
	in.Key = newForger(t).accepted(t)
	demand(t, "raw", in)
	in.Expect.SubjectKey = []byte("a key that a raw quote says nothing of")
	demand(t, "raw with a subject key", in, keystead.ReasonNonceMismatch)
}

// TestReplayedBundle: what passed once does not pass again, and proves nothing.
func TestReplayedBundle(t *testing.T) {
	in, _ := onStage(t).input(t, "packaged")
	demand(t, "the first time", in)
	in.Expect.Nonce = []byte("the verifier's next nonce")
	demand(t, "the second time", in, keystead.ReasonBundleReplayed)
	v := appraise.Appraise(in)
	if c := v.Claims(); v.Established() || v.Assurance() != evidence.AssuranceNone || c.Key.Binding != "" || len(c.Quote.PCRs) != 0 {
		t.Errorf("a replayed bundle establishes %+v with assurance %v", c, v.Assurance())
	}
}

// TestRegisters: the values that come with a quote, and what was left out of it.
func TestRegisters(t *testing.T) {
	s := onStage(t)
	forger := newForger(t)
	_, registers := machine{eventLog: record().EventLog}.registers(t)
	sha1 := evidence.PCRs{Bank: evidence.SHA1}
	for i := range 16 {
		sha1.Value[i] = make([]byte, 20)
	}
	forged := func(banks ...evidence.PCRs) appraise.Input {
		in := forger.input(t, machine{})
		parts := in.Bundle.Parts()
		parts.TPM = forger.quote(t, question.QualifyingData(), banks...)
		in.Bundle = bundle(t, parts)
		return in
	}
	left := func(quote string) appraise.Input { in, _ := s.input(t, quote); return in }
	for _, tc := range []struct {
		what string
		in   appraise.Input
		want []keystead.Reason
	}{
		{"an altered value", s.edited(t, func(p *evidence.Parts) {
			p.TPM.PCRs = altered(p.TPM.PCRs, func(v map[int][]byte) { v[0] = bytes.Repeat([]byte{1}, 32) })
		}), []keystead.Reason{keystead.ReasonPCRMismatch}},
		{"values of a good machine beside a bad one's quote", func() appraise.Input {
			in, parts := s.input(t, "unknown")
			good := *parts.TPM
			good.PCRs = s.taken["packaged"].PCRs
			parts.TPM, parts.IMALog = &good, record().Phases[0].IMALog
			in.Bundle = bundle(t, parts)
			return in
		}(), []keystead.Reason{keystead.ReasonPCRMismatch}},
		{"a value missing", s.edited(t, func(p *evidence.Parts) {
			p.TPM.PCRs = altered(p.TPM.PCRs, func(v map[int][]byte) { delete(v, 7) })
		}), []keystead.Reason{keystead.ReasonEvidenceMissing}},
		{"a bank missing", s.edited(t, func(p *evidence.Parts) { p.TPM.PCRs = p.TPM.PCRs[:1] }), []keystead.Reason{keystead.ReasonEvidenceMissing}},
		{"PCR 10 not quoted", left("without IMA's register"), []keystead.Reason{keystead.ReasonEvidenceMissing}},
		{"PCR 4 not quoted", left("without register 4"), []keystead.Reason{keystead.ReasonEvidenceMissing}},
		{"sha384 alone, where the log's entries are of sha256", left("sha384 alone"), []keystead.Reason{keystead.ReasonEvidenceMissing}},
		{"sha384 before sha256", left("sha384 first"), nil},
		{"sha1 alone", forged(sha1), []keystead.Reason{keystead.ReasonBankUnaccepted}},
		{"sha1 beside sha256", forged(sha1, registers), []keystead.Reason{keystead.ReasonBankUnaccepted}},
	} {
		demand(t, tc.what, tc.in, tc.want...)
	}
}

// altered changes the stated values of the first bank.
func altered(pcrs []evidence.Values, edit func(map[int][]byte)) []evidence.Values {
	out := slices.Clone(pcrs)
	out[0].Value = map[int][]byte{}
	for i, v := range pcrs[0].Value {
		out[0].Value[i] = v
	}
	edit(out[0].Value)
	return out
}

// TestLogAttacks: whoever controls the host's files edits the logs after the quote.
func TestLogAttacks(t *testing.T) {
	s := onStage(t)
	log, list := events(t, record().EventLog), entries(t, record().Phases[0].IMALog)
	eventLog := func(records [][]byte) func(*evidence.Parts) {
		return func(p *evidence.Parts) { p.EventLog = slices.Concat(records...) }
	}
	imaLog := func(records [][]byte) func(*evidence.Parts) {
		return func(p *evidence.Parts) { p.IMALog = slices.Concat(records...) }
	}
	swapped := func(r [][]byte, i int) [][]byte { r = slices.Clone(r); r[i], r[i+1] = r[i+1], r[i]; return r }
	flipped := func(r [][]byte, i, at int) [][]byte {
		r = slices.Clone(r)
		r[i] = bytes.Clone(r[i])
		r[i][at] ^= 1
		return r
	}
	// A refusal explains the first bank; each further one has its pcr-mismatch.
	const kernel = 23 // event of the kernel's image, after the loader's
	stranger := measured("sha256", make([]byte, 32), "/dev/shm/stranger")
	for _, tc := range []struct {
		what string
		edit func(*evidence.Parts)
		want []keystead.Reason
	}{
		{"event log: none", func(p *evidence.Parts) { p.EventLog = nil }, []keystead.Reason{keystead.ReasonEvidenceMissing}},
		{"event log: cut inside a record", func(p *evidence.Parts) { p.EventLog = p.EventLog[:len(p.EventLog)-3] }, []keystead.Reason{keystead.ReasonLogTruncated}},
		{"event log: events swapped", eventLog(swapped(log, kernel-1)), []keystead.Reason{keystead.ReasonLogAltered, keystead.ReasonPCRMismatch}},
		{"event log: one added", eventLog(append(slices.Clone(log), event(4, 0x80000003, []byte("image"), nil))), []keystead.Reason{keystead.ReasonLogAltered, keystead.ReasonPCRMismatch}},
		{"event log: one removed", eventLog(slices.Delete(slices.Clone(log), kernel, kernel+1)), []keystead.Reason{keystead.ReasonPCRMismatch, keystead.ReasonPCRMismatch}},
		{"event log: a digest changed", eventLog(flipped(log, kernel, 20)), []keystead.Reason{keystead.ReasonPCRMismatch}},
		{"event log: garbage", func(p *evidence.Parts) { p.EventLog = bytes.Repeat([]byte{0xff}, 64) }, []keystead.Reason{keystead.ReasonMalformed}},
		{"IMA log: none", func(p *evidence.Parts) { p.IMALog = nil }, []keystead.Reason{keystead.ReasonEvidenceMissing}},
		{"IMA log: last entry cut off", imaLog(list[:len(list)-1]), []keystead.Reason{keystead.ReasonLogTruncated}},
		{"IMA log: cut inside an entry", func(p *evidence.Parts) { p.IMALog = p.IMALog[:len(p.IMALog)-3] }, []keystead.Reason{keystead.ReasonLogTruncated}},
		{"IMA log: entries swapped", imaLog(swapped(list, 40)), []keystead.Reason{keystead.ReasonLogAltered}},
		{"IMA log: one inserted", imaLog(slices.Insert(slices.Clone(list), 40, stranger)), []keystead.Reason{keystead.ReasonLogAltered}},
		{"IMA log: a path changed", imaLog(flipped(list, 40, len(list[40])-8)), []keystead.Reason{keystead.ReasonLogAltered}},
		{"IMA log: boot_aggregate removed", imaLog(list[1:]), []keystead.Reason{keystead.ReasonLogAltered}},
		{"IMA log: garbage", func(p *evidence.Parts) { p.IMALog = bytes.Repeat([]byte{0xff}, 64) }, []keystead.Reason{keystead.ReasonMalformed}},
		{"both logs: each complains", func(p *evidence.Parts) {
			p.EventLog, p.IMALog = p.EventLog[:len(p.EventLog)-3], p.IMALog[:len(p.IMALog)-3]
		}, []keystead.Reason{keystead.ReasonLogTruncated, keystead.ReasonLogTruncated}},
	} {
		in := s.edited(t, tc.edit)
		demand(t, tc.what, in, tc.want...)
		if v := appraise.Appraise(in); v.Established() || v.Claims().Software.Entries != 0 {
			t.Errorf("%s: claims of software are established", tc.what)
		}
	}
	// What follows the quoted state is not judged, and believed in nothing.
	in := s.edited(t, imaLog(append(slices.Clone(list), stranger)))
	demand(t, "IMA log: an entry after the quoted ones", in)
	if c := appraise.Appraise(in).Claims().Software; c.Entries != int64(len(list)) || c.Uncovered != 1 {
		t.Errorf("want %d entries covered and 1 not, got %+v", len(list), c)
	}
	// A log of another boot leads to PCR 10 but not from this boot's registers.
	foreign := newForger(t)
	bad := foreign.input(t, machine{})
	parts := bad.Bundle.Parts()
	_, registers := machine{eventLog: record().EventLog}.registers(t)
	registers.Extend(9, make([]byte, 32))
	parts.TPM = foreign.quote(t, question.QualifyingData(), registers)
	bad.Bundle = bundle(t, parts)
	demand(t, "a register extended after the kernel started", bad, keystead.ReasonPCRMismatch, keystead.ReasonBootAggregate)
}

// TestForeignKey: quotes by keys that the verifier did not accept.
func TestForeignKey(t *testing.T) {
	forger := newForger(t)
	in := forger.input(t, machine{})
	in.Key = onStage(t).key
	demand(t, "a key outside of any TPM, which calls itself restricted", in, keystead.ReasonKeyForeign)

	in = onStage(t).edited(t, func(p *evidence.Parts) { p.TPM.AKPublic = forger.public })
	demand(t, "a genuine quote under another name", in, keystead.ReasonKeyForeign, keystead.ReasonSignatureInvalid)

	in = onStage(t).edited(t, func(p *evidence.Parts) {
		p.TPM.Attest, p.TPM.Signature = forger.input(t, machine{}).Bundle.Parts().TPM.Attest, forger.quote(t, nil).Signature
	})
	demand(t, "the accepted name over a made-up quote", in, keystead.ReasonSignatureInvalid)

	in = forger.input(t, machine{ima: entries(t, record().Phases[0].IMALog)[1:]})
	in.Key, in.Policy = appraise.AcceptedKey{}, shipped(t, "demo")
	demand(t, "no key accepted", in, keystead.ReasonAKUnbound, keystead.ReasonAssuranceLow, keystead.ReasonRuleFailed)
	in.Policy = compile(t, strings.Replace(named, "assurance test", "assurance none", 1))
	demand(t, "no key accepted, and a policy that asks for none", in)
	if c := appraise.Appraise(in).Claims(); c.Key.Binding != appraise.BindingNone || c.Assurance != "none" {
		t.Errorf("no key accepted: want ak-binding none and assurance none, got %+v", c)
	}
}

// TestUnrestrictedKey: a key of the same TPM signs a quote that the TPM never made.
func TestUnrestrictedKey(t *testing.T) {
	s := onStage(t)
	_, registers := machine{eventLog: record().EventLog}.registers(t)
	attest := madeUp(question.QualifyingData(), []evidence.PCRs{registers})
	in := s.edited(t, func(p *evidence.Parts) {
		p.TPM.AKPublic, p.TPM.Attest, p.TPM.Signature = s.unrestrictedKey, attest, s.sign(attest)
		p.TPM.PCRs = []evidence.Values{evidence.WireValues(registers)}
	})
	demand(t, "not accepted", in, keystead.ReasonKeyForeign, keystead.ReasonKeyUnsuitable)
	key, err := tpm2.ParsePublic(s.unrestrictedKey)
	if err != nil {
		t.Fatal(err)
	}
	in.Key.Name = key.Name()
	demand(t, "accepted by mistake", in, keystead.ReasonKeyUnsuitable)
}

// TestForeignEK: endorsement certificates that do not count.
func TestForeignEK(t *testing.T) {
	s := onStage(t)
	stranger, err := swtpm.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		what string
		edit func(*appraise.Input)
		want []keystead.Reason
	}{
		{"no roots", func(in *appraise.Input) { in.EKRoots = tpm2.Roots{} }, []keystead.Reason{keystead.ReasonEKUntrusted}},
		{"another authority", func(in *appraise.Input) { in.EKRoots.Test = []*x509.Certificate{stranger.Root} }, []keystead.Reason{keystead.ReasonEKUntrusted}},
		{"before the certificate", func(in *appraise.Input) { in.Time = in.Time.AddDate(-1, 0, 0) }, []keystead.Reason{keystead.ReasonEKUntrusted}},
		{"after the authority's end", func(in *appraise.Input) { in.Time = in.Time.AddDate(2, 0, 0) }, []keystead.Reason{keystead.ReasonEKUntrusted}},
		{"no time", func(in *appraise.Input) { in.Time = time.Time{} }, []keystead.Reason{keystead.ReasonEKUntrusted}},
		{"no certificate", func(in *appraise.Input) { in.Key.EKCertificate = nil }, []keystead.Reason{keystead.ReasonEKUntrusted}},
		{"a certificate that does not parse", func(in *appraise.Input) { in.Key.EKCertificate = [][]byte{{1}} }, []keystead.Reason{keystead.ReasonMalformed}},
		{"another endorsement key", func(in *appraise.Input) { in.Key.EKPublic = newForger(t).public }, []keystead.Reason{keystead.ReasonEKMismatch}},
		{"a key that does not parse", func(in *appraise.Input) { in.Key.EKPublic = []byte{1} }, []keystead.Reason{keystead.ReasonMalformed}},
	} {
		in, _ := s.input(t, "packaged")
		tc.edit(&in)
		demand(t, tc.what, in, tc.want...)
	}
}

// TestEveryFinding: faults of one stage are all reported, in order, and hide those of
// the stages that build on it.
func TestEveryFinding(t *testing.T) {
	in := onStage(t).edited(t, func(p *evidence.Parts) {
		p.TPM.PCRs = altered(p.TPM.PCRs, func(v map[int][]byte) { v[0] = make([]byte, 32) })
		p.IMALog = nil
	})
	in.Key.Name, in.Policy, in.Expect.Nonce = newForger(t).accepted(t).Name, nil, []byte("new")
	demand(t, "root of trust", in, keystead.ReasonPolicyUnusable, keystead.ReasonKeyForeign, keystead.ReasonBundleReplayed, keystead.ReasonPCRMismatch)
}

// TestManyFindings: a verdict is bounded, and counts what it leaves out.
func TestManyFindings(t *testing.T) {
	var m machine
	for i := range 1000 {
		m.ima = append(m.ima, measured("sha256", bytes.Repeat([]byte{byte(i), byte(i >> 8)}, 16), fmt.Sprintf("/tmp/%d", i)))
	}
	in := newForger(t).input(t, m)
	v := appraise.Appraise(in)
	if n := len(v.Findings()); n != 256 || !bytes.Contains(v.Bytes(), []byte(`"findings_omitted":744,`)) || v.Claims().Software.Unknown != 1000 {
		t.Errorf("want 256 findings of 1000 and 744 omitted, got %d in %.300s", n, v.Bytes())
	}
}
