package admit_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"reflect"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/tpm2"
)

// admitted has a host admitted and its lease on the ledger.
func (s *state) admitted(m *machine, host string) admit.Lease {
	s.t.Helper()
	d, err := admit.Decide(s, s.apply(m, host, evidence.PurposeAdmission))
	must(s.t, err)
	s.take(admit.TypeLease, host, d.Ruling())
	l, err := admit.Current(s, host)
	must(s.t, err)
	return l
}

// TestAdmission: an enrolled machine that runs what the terms allow gets a lease, and
// two nodes that activated it at other times decide the same, bit by bit.
func TestAdmission(t *testing.T) {
	s, m := newDomain(t), start(t, web)
	must(t, s.enrol("web-1", m.id, false))
	a := s.apply(m, "web-1", evidence.PurposeAdmission)
	d, err := admit.Decide(s, a)
	must(t, err)
	b := a
	b.Key.Activated, b.Key.EKCertificate, b.Rules = time.Unix(2, 0), nil, s.rules(admit.RoleHost)
	other, err := admit.Decide(s, b)
	must(t, err)
	if x, y := d.Ruling(), other.Ruling(); len(x.Writes) != 2 || !reflect.DeepEqual(x, y) {
		t.Errorf("two nodes rule\n%v\n%v", x, y)
	}
	if r, ok := d.Record(); !ok || !d.Verdict().Allowed() || d.Against() || r.Verdict != d.Verdict().Digest() {
		t.Errorf("the decision is %+v, %t", r, ok)
	}

	s.take(admit.TypeLease, "web-1", d.Ruling())
	l, err := admit.Current(s, "web-1")
	must(t, err)
	if l.Err() != nil || l.Host() != "web-1" || l.Role() != admit.RoleHost || l.EK() != m.id || !bytes.Equal(l.SubjectKey(), m.subject) || l.Assurance() != evidence.AssuranceTest ||
		l.Issued() != s.clock || l.Until() != s.clock+60_000 || l.Renewed() != 0 || l.Version() != s.version || l.Verdict() != d.Verdict().Digest() || l.AK() != keystead.Sum(m.key.Name) {
		t.Errorf("the lease is %+v", l)
	}
	if v, _ := s.Judged("lease/verdict/web-1"); !bytes.Equal(v.Data, d.Verdict().Bytes()) {
		t.Error("the verdict is not on the ledger")
	}
	if in := d.Verdict().Inputs(); in.Time.UnixMilli() != int64(s.clock) || !in.Key.Activated.Equal(in.Time) || in.Purpose != evidence.PurposeAdmission {
		t.Errorf("judged as of %v, activated %v, for %s", in.Time, in.Key.Activated, in.Purpose)
	}
}

// TestStrangersAreNotAdmitted: who is not enrolled, or not on this machine.
func TestStrangersAreNotAdmitted(t *testing.T) {
	s, m, other := newDomain(t), start(t, web), start(t, spare)
	a := s.apply(m, "web-1", evidence.PurposeAdmission)
	_, err := admit.Decide(s, a)
	demand(t, "a genuine TPM that nobody enrolled", err, keystead.ReasonHostUnenrolled)
	must(t, s.enrol("web-1", m.id, false))

	d, err := admit.Decide(s, s.apply(other, "web-1", evidence.PurposeAdmission))
	demand(t, "a copy of web-1's disk in another machine", err, keystead.ReasonHardwareForeign, keystead.ReasonHardwareForeign)
	if d.Against() {
		t.Error("another machine speaks against web-1")
	}
	relayed := s.apply(m, "web-1", evidence.PurposeAdmission)
	relayed.Key = other.key
	_, err = admit.Decide(s, relayed)
	demand(t, "web-1's evidence, from a machine that activated its own key", err, keystead.ReasonHardwareForeign)
	mixed := s.apply(other, "web-1", evidence.PurposeAdmission, func(p *evidence.Parts) { p.TPM.EKPublic, p.TPM.EKCertificate = m.ek.Public, m.ek.Chain })
	mixed.Key = m.key
	d, err = admit.Decide(s, mixed)
	demand(t, "another machine's quote beside web-1's endorsement key", err, keystead.ReasonKeyForeign)
	if _, ok := d.Record(); ok || len(d.Ruling().Writes) != 0 {
		t.Error("a refused application has a record")
	}
	certificate := s.apply(m, "web-1", evidence.PurposeAdmission, func(p *evidence.Parts) { p.TPM.EKCertificate = other.ek.Chain })
	_, err = admit.Decide(s, certificate)
	demand(t, "another machine's certificate", err, keystead.ReasonEKMismatch)

	must(t, s.enrol("web-1", m.id, true))
	d, err = admit.Decide(s, s.apply(m, "web-1", evidence.PurposeAdmission))
	demand(t, "a revoked host", err, keystead.ReasonHostRevoked)
	if !d.Against() {
		t.Error("members' revocation does not speak against the host")
	}
}

// TestOneIdentityUnderTwoNames lets two enrolments of one TPM be judged side by side,
// before either took effect.
func TestOneIdentityUnderTwoNames(t *testing.T) {
	s, m := newDomain(t), start(t, web)
	var rulings []admit.Ruling
	for _, host := range []string{"web-1", "web-2"} {
		r, err := admit.JudgeEnrolment(s, s.on(admit.TypeEnrolment, host), s.signed(&admit.Enrolment{Domain: s.domain, Host: host, Role: admit.RoleHost, EK: m.id}))
		must(t, err)
		rulings = append(rulings, r)
	}
	s.take(admit.TypeEnrolment, "web-1", rulings[0])
	lease := s.admitted(m, "web-1")
	s.take(admit.TypeEnrolment, "web-2", rulings[1])
	_, err := admit.Decide(s, s.apply(m, "web-1", evidence.PurposeAdmission))
	demand(t, "the first name", err, keystead.ReasonHardwareTaken)
	_, err = admit.Current(s, lease.Host())
	demand(t, "the lease of the first name", err, keystead.ReasonHardwareForeign)
	s.admitted(m, "web-2")
}

// TestEvidenceForAnotherQuestion: what was made for a connection, for a renewal, by
// another tick's nonce, or for no key.
func TestEvidenceForAnotherQuestion(t *testing.T) {
	s, m := newDomain(t), start(t, web)
	must(t, s.enrol("web-1", m.id, false))
	for _, purpose := range []string{"connection", evidence.PurposeRenewal, evidence.PurposeVerify} {
		d, err := admit.Decide(s, s.apply(m, "web-1", purpose))
		demand(t, "evidence for "+purpose, err, keystead.ReasonBundleReplayed)
		if d.Against() {
			t.Errorf("evidence for %s, which anybody may have kept, speaks against the host", purpose)
		}
	}
	raw := s.apply(m, "web-1", evidence.PurposeRaw)
	_, err := admit.Decide(s, raw)
	demand(t, "raw evidence", err, keystead.ReasonBundleReplayed)
	old := s.apply(m, "web-1", evidence.PurposeAdmission)
	old.Nonce = nonceAt(s.clock + 1000)
	_, err = admit.Decide(s, old)
	demand(t, "the nonce of another tick", err, keystead.ReasonBundleReplayed)
	claimed := s.apply(m, "web-1", evidence.PurposeRenewal, func(p *evidence.Parts) { p.Binding.Purpose = evidence.PurposeAdmission })
	_, err = admit.Decide(s, claimed)
	demand(t, "evidence for a renewal that says it is for an admission", err, keystead.ReasonNonceMismatch)
	swapped := s.apply(m, "web-1", evidence.PurposeAdmission, func(p *evidence.Parts) { p.Binding.SubjectKey = start(t, spare).subject })
	_, err = admit.Decide(s, swapped)
	demand(t, "another subject key than the evidence binds", err, keystead.ReasonNonceMismatch)

	subject := m.subject
	defer func() { m.subject = subject }()
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	encryption, err := x509.MarshalPKIXPublicKey(weak.Public())
	must(t, err)
	for what, der := range map[string][]byte{"no key": nil, "no public key": []byte("hello"), "an RSA key": encryption, "bytes after the key": append(bytes.Clone(subject), 0)} {
		m.subject = der
		_, err := admit.Decide(s, s.apply(m, "web-1", evidence.PurposeAdmission))
		demand(t, "evidence that binds "+what, err, keystead.ReasonEvidenceMissing)
	}
}

// TestWhatANodeBrings: its own activation, the terms in force, evidence that is whole.
func TestWhatANodeBrings(t *testing.T) {
	s, m := newDomain(t), start(t, web)
	must(t, s.enrol("web-1", m.id, false))
	good := s.apply(m, "web-1", evidence.PurposeAdmission)
	for _, tc := range []struct {
		what string
		edit func(*admit.Application)
		want keystead.Reason
	}{
		{"no activation", func(a *admit.Application) { a.Key = appraise.AcceptedKey{} }, keystead.ReasonAKUnbound},
		{"a key that is only named", func(a *admit.Application) { a.Key = appraise.AcceptedKey{Name: m.key.Name} }, keystead.ReasonAKUnbound},
		{"no rules", func(a *admit.Application) { a.Rules = nil }, keystead.ReasonSubjectChanged},
		{"empty rules", func(a *admit.Application) { a.Rules = &admit.Rules{} }, keystead.ReasonSubjectChanged},
		{"no bundle", func(a *admit.Application) { a.Bundle = evidence.Bundle{} }, keystead.ReasonEvidenceMissing},
		{"a bundle without the certificate", func(a *admit.Application) {
			*a = s.apply(m, "web-1", evidence.PurposeAdmission, func(p *evidence.Parts) { p.TPM.EKCertificate = nil })
		}, keystead.ReasonEvidenceMissing},
		{"an endorsement key that is none", func(a *admit.Application) {
			*a = s.apply(m, "web-1", evidence.PurposeAdmission, func(p *evidence.Parts) { p.TPM.EKPublic = []byte("key") })
		}, keystead.ReasonMalformed},
	} {
		a := good
		tc.edit(&a)
		_, err := admit.Decide(s, a)
		demand(t, tc.what, err, tc.want)
	}
	terms := s.terms("demo")
	c := s.on(admit.TypeTerms, admit.RoleHost)
	terms.Domain, terms.CodeSets = s.domain, nil
	r, err := admit.JudgeTerms(s, c, s.signed(terms), s.object)
	must(t, err)
	s.take(admit.TypeTerms, admit.RoleHost, r)
	_, err = admit.Decide(s, good)
	demand(t, "terms that are no longer in force", err, keystead.ReasonSubjectChanged)
	good.Rules = s.rules(admit.RoleHost)
	d, err := admit.Decide(s, good)
	if err == nil || !d.Against() {
		t.Errorf("terms without the code set: %v, against the host %t", err, d.Against())
	}
	s.founding["terms-host"] = ""
	delete(s.judged, "terms/host")
	_, err = admit.Decide(s, good)
	demand(t, "no terms at all", err, keystead.ReasonTermsMissing)
}

// TestDeniedHardware: by its identity, by the issuer of its certificate, by firmware.
func TestDeniedHardware(t *testing.T) {
	s, m := newDomain(t), start(t, web)
	must(t, s.enrol("web-1", m.id, false))
	l := s.admitted(m, "web-1")
	d, err := admit.Decide(s, s.apply(m, "web-1", evidence.PurposeAdmission))
	must(t, err)
	c := d.Verdict().Claims()
	issuer, err := keystead.ParseDigest(c.Key.IssuerKey)
	must(t, err)
	ca, err := authority()
	must(t, err)
	if issuer != keystead.Sum(ca.Root.RawSubjectPublicKeyInfo) {
		t.Errorf("the issuer's key is claimed to be %v", issuer)
	}
	subjects := []string{admit.DenyEK(m.id), admit.DenyIssuer(issuer), admit.DenyFirmware(c.Quote.Firmware)}
	if c.Boot.Firmware != "" {
		subjects = append(subjects, admit.DenyFirmware(c.Boot.Firmware))
	}
	for _, subject := range subjects {
		must(t, s.deny(subject, false))
		d, err := admit.Decide(s, s.apply(m, "web-1", evidence.PurposeAdmission))
		demand(t, "admission, denied "+subject, err, keystead.ReasonHardwareDenied)
		if !d.Against() {
			t.Errorf("a denial of %s does not speak against the host", subject)
		}
		_, err = admit.Current(s, l.Host())
		demand(t, "the lease, denied "+subject, err, keystead.ReasonHardwareDenied)
		d, err = admit.Renew(s, s.apply(m, "web-1", evidence.PurposeRenewal))
		demand(t, "renewal, denied "+subject, err, keystead.ReasonHardwareDenied)
		if !d.Against() {
			t.Errorf("a renewal despite the denial of %s does not speak against the host", subject)
		}
		must(t, s.deny(subject, true))
		_, err = admit.Current(s, l.Host())
		must(t, err)
	}
	for _, subject := range []string{admit.DenyEK(start(t, spare).id), admit.DenyIssuer(digestOf("another")), admit.DenyFirmware("another")} {
		must(t, s.deny(subject, false))
	}
	s.admitted(m, "web-1")
}

// TestRenewal renews a lease, until the machine goes bad, and boots anew.
func TestRenewal(t *testing.T) {
	s, m := newDomain(t), start(t, newMachine)
	must(t, s.enrol("web-1", m.id, false))
	_, err := admit.Renew(s, s.apply(m, "web-1", evidence.PurposeRenewal))
	demand(t, "a renewal before the admission", err, keystead.ReasonLeaseUnknown)
	l := s.admitted(m, "web-1")
	renew := func(edit ...func(*evidence.Parts)) (admit.Decision, error) {
		return admit.Renew(s, s.apply(m, "web-1", evidence.PurposeRenewal, edit...))
	}
	s.clock += 20_000
	d, err := renew()
	must(t, err)
	r, ok := d.Renewal()
	if !ok || r.Lease != l.Version() || r.Issued != s.clock || r.Until != s.clock+60_000 || r.Verdict != d.Verdict().Digest() || len(d.Ruling().Writes) != 0 {
		t.Fatalf("the renewal is %+v, %t", r, ok)
	}
	s.renewals["web-1"] = r
	s.clock += 50_000
	if l, err = admit.Current(s, "web-1"); err != nil || l.Until() != r.Until || l.Renewed() != r.Issued || l.Evidence() != r.Issued || l.Verdict() != r.Verdict {
		t.Fatalf("renewed: %+v, %v", l, err)
	}
	_, err = admit.Renew(s, s.apply(m, "web-1", evidence.PurposeAdmission))
	demand(t, "evidence for an admission", err, keystead.ReasonBundleReplayed)

	subject := m.subject
	m.subject = start(t, spare).subject
	_, err = renew()
	demand(t, "another subject key", err, keystead.ReasonBootChanged)
	m.subject = subject
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	must(t, m.next(ctx))
	d, err = renew()
	if err == nil || !d.Against() || d.Verdict().Allowed() || !d.Verdict().Established() {
		t.Errorf("a machine that went bad: %v, against it %t", err, d.Against())
	}
	d, err = renew(func(p *evidence.Parts) { p.IMALog = record().Phases[0].IMALog })
	if err == nil || !d.Against() {
		t.Errorf("a machine that went bad and hides it: %v, against it %t", err, d.Against())
	}
	m.restart(t)
	d, err = renew()
	demand(t, "a machine that booted anew", err, keystead.ReasonBootChanged)
	if !d.Against() {
		t.Error("another boot does not end the lease of the last one")
	}
	s.admitted(m, "web-1")
	_, err = renew()
	demand(t, "evidence of the moment of the admission", err, keystead.ReasonRenewalReplayed)
	s.clock++
	_, err = renew()
	must(t, err)

	s.suspensions["web-1"] = admit.Suspension{Lease: s.version, Node: "node-2", Reason: "file-unknown", Time: s.clock}
	_, err = renew()
	demand(t, "a suspended lease", err, keystead.ReasonLeaseSuspended)
	s.clock++
	s.admitted(m, "web-1")
	s.clock += 60_000
	_, err = renew()
	demand(t, "a lease that is over", err, keystead.ReasonLeaseExpired)
}

// TestSuspendedHostShowsOldEvidence lets a host that was suspended hand in the good
// evidence from just before, whose nonce is still young.
func TestSuspendedHostShowsOldEvidence(t *testing.T) {
	s, m := newDomain(t), start(t, web)
	must(t, s.enrol("web-1", m.id, false))
	l := s.admitted(m, "web-1")
	s.clock += 1000
	kept := s.apply(m, "web-1", evidence.PurposeAdmission)
	endorsed, err := admit.Decide(s, kept) // by a majority, before they learn of the suspension
	must(t, err)
	for _, later := range []uint64{0, 2000} {
		s.suspensions["web-1"] = admit.Suspension{Lease: l.Version(), Node: "node-2", Reason: "file-unknown: /run/x", Time: s.clock + later}
		_, err = admit.Decide(s, kept)
		demand(t, "evidence from before the suspension", err, keystead.ReasonLeaseSuspended)
	}
	s.take(admit.TypeLease, "web-1", endorsed.Ruling())
	_, err = admit.Current(s, "web-1")
	demand(t, "a lease on evidence from before the suspension", err, keystead.ReasonLeaseSuspended)
	s.clock += 2001
	s.admitted(m, "web-1")
}

// TestKeysElsewhereAreNotAdmitted: a chain that leads to no root of the terms.
func TestKeysElsewhereAreNotAdmitted(t *testing.T) {
	s, m := newDomain(t), start(t, web)
	must(t, s.enrol("web-1", m.id, false))
	block := bytes.Clone(s.objects[s.terms("demo").Roots])
	roots, err := admit.ParseRoots(block)
	must(t, err)
	terms := s.terms("demo")
	foreign, err := x509.ParseCertificate(m.ek.Chain[0])
	must(t, err)
	text, err := admit.FormatRoots(tpm2.Roots{Intermediates: append(roots.Test, foreign)})
	must(t, err)
	terms.Roots = s.put(text)
	s.found(terms)
	_, err = admit.Decide(s, s.apply(m, "web-1", evidence.PurposeAdmission))
	demand(t, "an authority that is no root", err, keystead.ReasonEKUntrusted)
}
