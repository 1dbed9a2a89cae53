package admit_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/foundry"
)

// teePolicy asks for an accepted launch, and for a floor of microcode.
const teePolicy = "keystead-policy/1\nname tee\nminimum-assurance test\nsoftware report\ntee accepted\n" +
	"rule microcode\n  require tee.kind != \"sev-snp\" || tee.tcb[3] >= 219\n  otherwise update microcode\n"

const reportID = 0x140 // of an SNP report

// guest is a host with a TEE alone, and the vendor whose machine it runs on.
type guest struct {
	*state
	kind, machine string
	launch        byte // of which the launch measurement consists
	subject       []byte
	roots         evidence.VendorRoots
	pieces        func() []evidence.Piece
	report        func(b evidence.Binding) evidence.TEE // by the machine as it is
	edit          func([]byte)                          // of what is signed; nil for none

	amd   *foundry.AMD
	intel *foundry.Intel
	aws   *foundry.AWS
	world foundry.World
	pcr   func(map[string]any)
}

func newKey(t testing.TB) []byte {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	must(t, err)
	return der
}

func newSNP(t testing.TB) *guest {
	t.Helper()
	g := &guest{state: newState(t), kind: evidence.KindSNP, launch: 0xAB, subject: newKey(t), amd: foundry.NewAMD(1)}
	g.machine, g.roots = fmt.Sprintf("%x", g.amd.ChipID), g.amd.Roots()
	g.pieces = func() []evidence.Piece { return g.amd.Pieces(false) }
	g.report = func(b evidence.Binding) evidence.TEE {
		return evidence.TEE{Kind: g.kind, Report: g.amd.Report(b.ReportData(nil), g.edit), Certificates: g.amd.Certificates()}
	}
	return g
}

func newTD(t testing.TB) *guest {
	t.Helper()
	g := &guest{state: newState(t), kind: evidence.KindTDX, launch: 0xCD, subject: newKey(t), intel: foundry.NewIntel()}
	g.machine, g.roots = fmt.Sprintf("%x", g.intel.PPID), g.intel.Roots()
	g.pieces = func() []evidence.Piece { return g.intel.Pieces(g.world) }
	g.report = func(b evidence.Binding) evidence.TEE {
		return evidence.TEE{Kind: g.kind, Report: g.intel.Quote(b.ReportData(nil), foundry.Quoting{Version: 4, Edit: g.edit})}
	}
	return g
}

func newNitro(t testing.TB) *guest {
	t.Helper()
	g := &guest{state: newState(t), kind: evidence.KindNitro, launch: 0x10, subject: newKey(t), machine: "i-0abc-enc0123", aws: foundry.NewAWS()}
	g.roots, g.pieces = g.aws.Roots(), func() []evidence.Piece { return nil }
	g.report = func(b evidence.Binding) evidence.TEE {
		data := b.ReportData(nil)
		return evidence.TEE{Kind: g.kind, Report: g.aws.Document(b.Nonce, data[:], g.pcr)}
	}
	return g
}

// judge makes founding terms of a policy, the vendor's roots and pieces, and begins anew.
func (g *guest) judge(policy string, pieces ...evidence.Piece) {
	g.t.Helper()
	roots, err := admit.FormatTEERoots(evidence.VendorRoots{Test: g.roots.Hardware})
	must(g.t, err)
	terms := g.terms("demo")
	terms.Policy, terms.TEERoots, terms.References = g.put([]byte(policy)), g.put(roots), nil
	terms.CodeSets = []keystead.Digest{g.put(fmt.Appendf(nil, "keystead-codeset/3\nname guests\nimage guest sha384:%x guarantees=none\n", bytes.Repeat([]byte{g.launch}, 48)))}
	if len(pieces) > 0 {
		terms.Collateral = []keystead.Digest{g.put(foundry.Collateral(pieces...).Bytes())}
	}
	g.found(terms)
}

func (g *guest) host() evidence.TEEHost {
	return evidence.TEEHost{Kind: g.kind, Machine: g.machine, Key: keystead.Sum(g.subject)}
}

func (g *guest) enrolment(revoked bool) error {
	g.t.Helper()
	c := g.on(admit.TypeEnrolment, "web-1")
	r, err := admit.JudgeEnrolment(g, c, g.signed(&admit.Enrolment{Domain: g.domain, Host: "web-1", Base: c.Base, Role: admit.RoleHost, TEE: g.host(), Revoked: revoked}))
	if err == nil {
		g.take(admit.TypeEnrolment, "web-1", r)
	}
	return err
}

// lives has the vendor's guest enrolled and admitted under terms of its own.
func (g *guest) lives(policy string) admit.Lease {
	g.t.Helper()
	g.clock = uint64(foundry.Now.UnixMilli())
	g.judge(policy, g.pieces()...)
	must(g.t, g.enrolment(false))
	d, err := g.shows(evidence.PurposeAdmission)
	must(g.t, err)
	g.take(admit.TypeLease, "web-1", d.Ruling())
	l, err := admit.Current(g, "web-1")
	must(g.t, err)
	return l
}

// answer is the guest's evidence a second later, on its own connection.
func (g *guest) answer(purpose string, edit ...func(*evidence.Parts)) admit.Application {
	g.t.Helper()
	g.clock += 1000
	nonce := nonceAt(g.clock)
	b := evidence.Binding{Purpose: purpose, Nonce: nonce[:], SubjectKey: g.subject}
	item := g.report(b)
	p := evidence.Parts{Binding: b, TEE: &item}
	for _, e := range edit {
		e(&p)
	}
	bundle, err := evidence.New(p)
	must(g.t, err)
	return admit.Application{Host: "web-1", Bundle: bundle, Nonce: nonce, Time: g.clock, Rules: g.rules(admit.RoleHost), Own: true}
}

// judged decides as a node does; what is renewed is on the ledger.
func (g *guest) judged(a admit.Application, purpose string) (admit.Decision, error) {
	if purpose == evidence.PurposeAdmission {
		return admit.Decide(g, a)
	}
	d, err := admit.Renew(g, a)
	if r, ok := d.Renewal(); ok {
		g.renewals["web-1"] = r
	}
	return d, err
}

func (g *guest) shows(purpose string, edit ...func(*evidence.Parts)) (admit.Decision, error) {
	g.t.Helper()
	return g.judged(g.answer(purpose, edit...), purpose)
}

// refused demands that admission and renewal are refused for the reasons, and that this
// ends the lease or does not; from anybody else's hands it never does.
func (g *guest) refused(what string, against bool, edit func(*evidence.Parts), reasons ...keystead.Reason) {
	g.t.Helper()
	if edit == nil {
		edit = func(*evidence.Parts) {}
	}
	for _, purpose := range []string{evidence.PurposeAdmission, evidence.PurposeRenewal} {
		a := g.answer(purpose, edit)
		d, err := g.judged(a, purpose)
		demand(g.t, what+": "+purpose, err, reasons...)
		if d.Against() != against {
			g.t.Errorf("%s: %s: it speaks against the host: %t, %v", what, purpose, d.Against(), err)
		}
		a.Own = false
		if d, err := g.judged(a, purpose); err == nil || d.Against() {
			g.t.Errorf("%s: %s: in the hands of others: %t, %v", what, purpose, d.Against(), err)
		}
	}
}

// signed has the vendor sign something else for a while.
func (g *guest) signs(edit func([]byte), then func()) {
	g.edit = edit
	then()
	g.edit = nil
}

// TestTEEAdmission: a guest of each kind is admitted and renewed; its lease names the guest,
// and no attestation key.
func TestTEEAdmission(t *testing.T) {
	loose := "keystead-policy/1\nname tee\nminimum-assurance test\nsoftware report\nboot report\ntee accepted\nrules none\n"
	for _, g := range []*guest{newSNP(t), newTD(t), newNitro(t)} {
		l := g.lives(loose)
		if l.EK() != g.host().Identity() || !l.AK().IsZero() || l.Guest().IsZero() || l.Assurance() != evidence.AssuranceTest || !bytes.Equal(l.SubjectKey(), g.subject) {
			t.Errorf("%s: the lease is %+v", g.kind, l)
		}
		d, err := g.shows(evidence.PurposeRenewal)
		must(t, err)
		if r, ok := d.Renewal(); !ok || r.Resumed || r.Clock != 0 || d.State() != nil {
			t.Errorf("%s: renewed by %+v", g.kind, r)
		}
		v, err := g.Judged("lease/host/web-1")
		must(t, err)
		r, err := admit.ParseRecord(v.Data)
		must(t, err)
		if v.Data[0] != 3 || !bytes.Equal(r.Bytes(), v.Data) || r.Guest != l.Guest() {
			t.Errorf("%s: record %x", g.kind, v.Data)
		}
		must(t, g.enrolment(true))
		_, err = g.shows(evidence.PurposeAdmission)
		demand(t, "revoked", err, keystead.ReasonHostRevoked)
	}
}

// TestTEEAttacks: what an SNP host shows that is not its own, or not for this question, or
// of a machine or launch that the terms do not accept.
func TestTEEAttacks(t *testing.T) {
	g := newSNP(t)
	g.lives(teePolicy)
	good := g.answer(evidence.PurposeRenewal)

	g.signs(func(b []byte) { b[foundry.SNPReportData] ^= 1 }, func() { g.refused("another nonce", false, nil, keystead.ReasonNonceMismatch) })
	g.refused("a replay", false, func(p *evidence.Parts) { *p = good.Bundle.Parts() }, keystead.ReasonBundleReplayed)
	g.refused("a flipped bit", false, func(p *evidence.Parts) { p.TEE.Report[foundry.SNPMeasurement] ^= 1 }, keystead.ReasonSignatureInvalid)
	g.refused("no report", false, func(p *evidence.Parts) { p.TEE = nil }, keystead.ReasonEvidenceMissing)
	other := newKey(t)
	g.refused("another guest of the chip", false, func(p *evidence.Parts) {
		p.Binding.SubjectKey = other
		*p.TEE = g.report(p.Binding)
	}, keystead.ReasonHardwareForeign)
	g.refused("another guest's report for the host's key", false, func(p *evidence.Parts) {
		*p.TEE = g.report(evidence.Binding{Purpose: p.Binding.Purpose, Nonce: p.Binding.Nonce, SubjectKey: other})
	}, keystead.ReasonNonceMismatch)
	g.refused("no subject key", false, func(p *evidence.Parts) { p.Binding.SubjectKey = nil }, keystead.ReasonEvidenceMissing)
	g.refused("a TPM beside it", false, func(p *evidence.Parts) {
		p.TPM = &evidence.TPM{AKPublic: []byte{1}, Attest: []byte{1}, Signature: []byte{1}}
	}, keystead.ReasonHardwareForeign)
	g.refused("another kind", false, func(p *evidence.Parts) { p.TEE.Kind = evidence.KindTDX }, keystead.ReasonHardwareForeign)

	chip := *g.amd
	g.amd.NewChip(2)
	g.refused("the key on another chip", true, nil, keystead.ReasonHardwareForeign)
	*g.amd = chip
	g.signs(func(b []byte) { b[foundry.SNPPolicy+2] |= 1 << 3 }, func() { g.refused("a debugger", true, nil, keystead.ReasonTEEDebug) })
	g.signs(func(b []byte) { b[foundry.SNPMeasurement] ^= 1 }, func() { g.refused("another measurement", true, nil, keystead.ReasonBootUnaccepted) })
	if _, err := g.shows(evidence.PurposeRenewal); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestTEEAttacksOfEachKind: likewise what hosts of other kinds show.
func TestTEEAttacksOfEachKind(t *testing.T) {
	policy := "keystead-policy/1\nname tee\nminimum-assurance test\nsoftware report\nboot report\ntee accepted\nrules none\n"
	for _, g := range []*guest{newTD(t), newNitro(t)} {
		g.lives(policy)
		good, other := g.answer(evidence.PurposeRenewal), newKey(t)
		g.refused(g.kind+": a replay", false, func(p *evidence.Parts) { *p = good.Bundle.Parts() }, keystead.ReasonBundleReplayed)
		g.refused(g.kind+": another guest of the machine", false, func(p *evidence.Parts) {
			p.Binding.SubjectKey = other
			*p.TEE = g.report(p.Binding)
		}, keystead.ReasonHardwareForeign)
		g.refused(g.kind+": another kind", false, func(p *evidence.Parts) { p.TEE.Kind = evidence.KindSNP }, keystead.ReasonHardwareForeign)
		g.edit = func(b []byte) { b[foundry.TDAttributes] |= 1 }
		g.pcr = func(m map[string]any) { m["pcrs"].(map[int][]byte)[0] = make([]byte, 48) }
		g.refused(g.kind+": a debugger", true, nil, keystead.ReasonTEEDebug)
		g.edit = nil
		g.pcr = func(m map[string]any) { m["module_id"] = "i-0abc-enc9999" }
		if g.kind == evidence.KindNitro {
			g.refused("another instance with the host's key", true, nil, keystead.ReasonHardwareForeign)
		}
	}
}

// TestTEERestart: a guest that was launched anew is no renewal of the one that was admitted.
func TestTEERestart(t *testing.T) {
	again := func(g *guest, what string, edit func()) {
		t.Helper()
		policy := "keystead-policy/1\nname tee\nminimum-assurance test\nsoftware report\nboot report\ntee accepted\nrules none\n"
		g.lives(policy)
		edit()
		a := g.answer(evidence.PurposeRenewal)
		d, err := admit.Renew(g, a)
		demand(t, what, err, keystead.ReasonBootChanged)
		if !d.Against() {
			t.Errorf("%s: the lease does not end", what)
		}
		a.Own = false
		if d, _ := admit.Renew(g, a); d.Against() {
			t.Errorf("%s: it ends in the hands of others", what)
		}
		_, err = g.shows(evidence.PurposeAdmission)
		must(t, err)
	}
	snp, td, nitro := newSNP(t), newTD(t), newNitro(t)
	again(snp, "a report id that is new", func() { snp.edit = func(b []byte) { b[reportID] = 1 } })
	again(td, "another register", func() { td.edit = func(b []byte) { b[foundry.TDRTMR+48] = 1 } })
	again(nitro, "another PCR", func() { nitro.pcr = func(m map[string]any) { m["pcrs"].(map[int][]byte)[4] = make([]byte, 48) } })
}

// TestTEECollateral: what the vendor says of the machine, under new terms. Collateral that
// is old, or not there, is the domain's affair and ends no lease.
func TestTEECollateral(t *testing.T) {
	g := newSNP(t)
	g.lives(teePolicy)
	g.judge(teePolicy, g.amd.Pieces(true)...)
	g.refused("a revoked authority", true, nil, keystead.ReasonKeyRevoked)
	floor := bytes.ReplaceAll([]byte(teePolicy), []byte(">= 219"), []byte(">= 220"))
	g.judge(string(floor), g.pieces()...)
	g.refused("a level below the floor", true, nil, keystead.ReasonRuleFailed)
	g.judge(teePolicy)
	g.refused("no collateral", false, nil, keystead.ReasonCollateralMissing)
	now := foundry.Now
	g.judge(teePolicy, g.amd.PiecesOf(now.AddDate(0, -2, 0), false)...)
	g.refused("a list past its time", false, nil, keystead.ReasonCollateralExpired)
	g.signs(func(b []byte) { b[foundry.SNPPolicy+2] |= 1 << 3 }, func() {
		g.refused("a list past its time, and a debugger", true, nil, keystead.ReasonCollateralExpired, keystead.ReasonTEEDebug)
	})
	g.judge(teePolicy, g.pieces()...)
	g.roots = foundry.NewAMD(1).Roots()
	g.judge(teePolicy, g.pieces()...)
	g.refused("another vendor's root", false, nil, keystead.ReasonVendorUntrusted)

	td := newTD(t)
	policy := "keystead-policy/1\nname tee\nminimum-assurance test\nsoftware report\nboot report\ntee accepted\nrules none\n"
	td.lives(policy)
	for what, tc := range map[string]struct {
		world   foundry.World
		against bool
		reason  keystead.Reason
	}{
		"a level out of date": {foundry.World{Status: "OutOfDate"}, true, keystead.ReasonTCBOutdated},
		"a revoked level":     {foundry.World{Status: "Revoked"}, true, keystead.ReasonTCBRevoked},
		"a revoked machine":   {foundry.World{Revoked: true}, true, keystead.ReasonKeyRevoked},
		"old collateral":      {foundry.World{Expired: true}, false, keystead.ReasonCollateralExpired},
	} {
		td.world = tc.world
		td.judge(policy, td.pieces()...)
		td.refused(what, tc.against, nil, tc.reason)
	}
}

// TestTEETerms: terms for hosts alone name roots and collateral of TEEs; two pieces for one
// question are refused when terms are judged, and a host with a TPM knows nothing of them.
func TestTEETerms(t *testing.T) {
	g := newSNP(t)
	g.lives(teePolicy)
	roots, err := admit.FormatTEERoots(g.roots)
	must(t, err)
	terms := g.terms("demo")
	g.found(terms)
	terms.Domain = g.domain
	terms.TEERoots = g.put(roots)
	must(t, g.bring(admit.ObjectTEERoots, roots, keystead.Digest{}))
	malformed(t, "roots for collateral", g.bring(admit.ObjectCollateral, roots, keystead.Digest{}))
	var all []keystead.Digest
	for _, pieces := range [][]evidence.Piece{g.amd.Pieces(false), g.amd.Pieces(true), {{Kind: evidence.CollateralAMDCRL, Name: "vlek/Milan", Data: []byte{1}}}} {
		c := foundry.Collateral(pieces...).Bytes()
		must(t, g.bring(admit.ObjectCollateral, c, keystead.Digest{}))
		malformed(t, "collateral for roots", g.bring(admit.ObjectTEERoots, c, keystead.Digest{}))
		all = append(all, keystead.Sum(c))
	}
	judge := func(collateral ...keystead.Digest) error {
		t.Helper()
		x := *terms
		x.Collateral = collateral
		if len(collateral) == 2 && bytes.Compare(collateral[0][:], collateral[1][:]) > 0 {
			x.Collateral = []keystead.Digest{collateral[1], collateral[0]}
		}
		c := g.on(admit.TypeTerms, x.Role)
		x.Base = c.Base
		r, err := admit.JudgeTerms(g, c, g.signed(&x), g.object)
		if err == nil {
			g.take(admit.TypeTerms, x.Role, r)
		}
		return err
	}
	must(t, judge(all[0]))
	must(t, judge(all[0], all[2]))
	if in := g.rules(admit.RoleHost).TEEInput(time.Now()); len(in.Collateral.Pieces()) != 3 || len(in.TEERoots.Hardware) != 1 {
		t.Errorf("the rules have %d pieces, %v", len(in.Collateral.Pieces()), in.TEERoots)
	}
	if in := g.rules(admit.RoleHost).Input(time.Now()); in.Collateral != nil || len(in.TEERoots.Hardware) != 0 {
		t.Error("a TPM's verdict names collateral")
	}
	malformed(t, "two lists for one authority", judge(all[0], all[1]))
	demand(t, "collateral that is not endorsed", judge(keystead.Sum([]byte("none"))), keystead.ReasonObjectUnknown)
	delete(g.objects, all[2])
	demand(t, "collateral that is not here", judge(all[0], all[2]), keystead.ReasonObjectMissing)
	for what, x := range map[string]admit.Terms{
		"roots of TEEs for nodes": {Role: admit.RoleNode, Policy: terms.Policy, Roots: terms.Roots, TEERoots: terms.TEERoots},
		"collateral for nodes":    {Role: admit.RoleNode, Policy: terms.Policy, Roots: terms.Roots, Collateral: all[:1]},
		"nine bundles":            {Role: admit.RoleHost, Policy: terms.Policy, Roots: terms.Roots, Collateral: many(9)},
		"one bundle twice":        {Role: admit.RoleHost, Policy: terms.Policy, Roots: terms.Roots, Collateral: []keystead.Digest{all[0], all[0]}},
	} {
		_, err := x.Text()
		malformed(t, what, err)
	}
}

// many are digests, ascending.
func many(n int) (out []keystead.Digest) {
	for i := range n {
		out = append(out, keystead.Digest{1, byte(i)})
	}
	return out
}

// TestTEEEnrolment: kind, machine and key make the identity; it has one name.
func TestTEEEnrolment(t *testing.T) {
	g := newSNP(t)
	must(t, g.enrolment(false))
	c := g.on(admit.TypeEnrolment, "web-2")
	e := admit.Enrolment{Domain: g.domain, Host: "web-2", Role: admit.RoleHost, TEE: g.host()}
	_, err := admit.JudgeEnrolment(g, c, g.signed(&e))
	demand(t, "a guest's second name", err, keystead.ReasonHardwareTaken)
	e.TEE.Key = digestOf("another guest")
	_, err = admit.JudgeEnrolment(g, c, g.signed(&e))
	must(t, err)
	e.Host, e.Base, e.Revoked = "web-1", g.subjects[admit.TypeEnrolment+"/web-1"], true
	_, err = admit.JudgeEnrolment(g, g.on(admit.TypeEnrolment, "web-1"), g.signed(&e))
	demand(t, "another guest's revocation", err, keystead.ReasonHardwareForeign)
	if name, err := admit.HostOf(g, g.host().Identity()); name != "web-1" || err != nil {
		t.Errorf("the identity is of %q, %v", name, err)
	}
	good := admit.Enrolment{Domain: g.domain, Host: "web-3", Role: admit.RoleHost, TEE: g.host()}
	text, err := good.Text()
	must(t, err)
	again, err := admit.ParseEnrolment(text)
	must(t, err)
	if again != good {
		t.Errorf("%+v becomes %+v", good, again)
	}
	for what, edit := range map[string]func(*admit.Enrolment){
		"a node":              func(e *admit.Enrolment) { e.Role = admit.RoleNode },
		"an enclave":          func(e *admit.Enrolment) { e.TEE.Kind = evidence.KindSGX },
		"no machine":          func(e *admit.Enrolment) { e.TEE.Machine = "" },
		"no key":              func(e *admit.Enrolment) { e.TEE.Key = keystead.Digest{} },
		"a machine of spaces": func(e *admit.Enrolment) { e.TEE.Machine = "a b" },
	} {
		x := good
		edit(&x)
		_, err := x.Text()
		malformed(t, what, err)
	}
	malformed(t, "a TPM beside it", func() error {
		_, err := admit.ParseEnrolment(bytes.Replace(text, []byte("tee "), []byte("ek "+digestOf(1).String()+"\ntee "), 1))
		return err
	}())
}
