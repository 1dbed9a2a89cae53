package appraise

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/eventlog"
	"github.com/keystead/keystead/evidence/nitro"
	"github.com/keystead/keystead/evidence/sgx"
	"github.com/keystead/keystead/evidence/snp"
	"github.com/keystead/keystead/evidence/tdx"
	"github.com/keystead/keystead/internal/dcap"
	"github.com/keystead/keystead/internal/endorse"
	"github.com/keystead/keystead/refval"
)

// A surroundings is what a TEE's evidence came to, whatever its kind.
type surroundings struct {
	claims evidence.TEEClaims
	root   endorse.Root
	data   []byte // report data, or user data
	nonce  []byte // of Nitro's own field; nil where there is none
	level  evidence.Assurance
	id     []byte                 // of this launch: REPORT_ID; nil where there is none
	rtmr   [eventlog.RTMRs][]byte // of TDX
}

// tee settles what a trusted execution environment said, and whose machine it is.
func (a *appraisal) tee() {
	s, err := a.openTEE(a.parts.TEE)
	if err != nil {
		a.fail("tee", err)
		return
	}
	before := len(a.findings)
	a.teeNonce(s)
	if a.parts.TPM == nil && len(a.findings) == before {
		a.answered = true
		a.guest = s.claims.Guest(s.id)
	}
	if s.claims.Debug && !a.in.Policy.TEEDebug() {
		a.find(keystead.Finding{Reason: keystead.ReasonTEEDebug, Where: "tee", Want: "memory that nobody outside may read", Got: "a guest that allows a debugger or a migration agent"})
	}
	if s.root.Test || s.claims.Debug {
		s.level = evidence.AssuranceTest
	}
	s.claims.Level = s.level.String()
	a.claims.TEE, a.rtmr = s.claims, s.rtmr
	if a.parts.TPM == nil {
		a.assurance = s.level
	}
}

// openTEE verifies the evidence and holds it against the collateral.
func (a *appraisal) openTEE(t *evidence.TEE) (*surroundings, error) {
	at, roots, collateral := a.in.Time, a.in.TEERoots, a.in.Collateral
	switch t.Kind {
	case evidence.KindSNP:
		v, err := snp.Verify(t.Report, t.Certificates, roots, collateral, at)
		if err != nil {
			return nil, err
		}
		a.revocation(v.CheckRevocation(collateral, at))
		return &surroundings{claims: v.Claims(), root: v.Root, data: v.ReportData, level: evidence.AssuranceTEEVM, id: v.ReportID}, nil
	case evidence.KindTDX:
		v, err := tdx.Verify(t.Report, roots, at)
		if err != nil {
			return nil, err
		}
		s := &surroundings{claims: v.Claims(), root: v.Root, data: v.ReportData, level: evidence.AssuranceTEEVM, rtmr: v.RTMR}
		standing, err := v.Standing(collateral, roots, at)
		a.standing(v.Verified, s, standing, err, func() error { return v.Spared(collateral, roots, at) })
		return s, nil
	case evidence.KindSGX:
		v, err := sgx.Verify(t.Report, roots, at)
		if err != nil {
			return nil, err
		}
		s := &surroundings{claims: v.Claims(), root: v.Root, data: v.ReportData, level: evidence.AssuranceTEEProcess}
		standing, err := v.Standing(collateral, roots, at)
		a.standing(v.Verified, s, standing, err, func() error { return v.Spared(collateral, roots, at) })
		return s, nil
	case evidence.KindNitro:
		v, err := nitro.Verify(t.Report, roots, at)
		if err != nil {
			return nil, err
		}
		return &surroundings{claims: v.Claims(), root: v.Root, data: v.UserData, nonce: append([]byte{}, v.Nonce...), level: evidence.AssuranceTEEVM}, nil
	}
	return nil, fmt.Errorf("kind %.40q is not known", t.Kind) // evidence.Parse lets none pass
}

// revocation records what speaks against a chain; a policy may take missing or old lists
// for a report, but never a key that was revoked.
func (a *appraisal) revocation(err error) {
	if err != nil && (errors.Is(err, keystead.ReasonKeyRevoked) || a.in.Policy.TEERevocation()) {
		a.fail("tee", err)
	}
}

// standing records what Intel says of a machine; spared is asked where that is not known,
// and the policy takes it all the same.
func (a *appraisal) standing(v *dcap.Verified, s *surroundings, standing *dcap.Standing, err error, spared func() error) {
	defer func() { a.revocation(v.CheckRevocation(standing, a.in.Collateral, a.in.Time)) }()
	if err != nil {
		if !a.in.Policy.TEECurrent() && a.sparing(err) {
			s.claims.TCBStatus = "" // nothing is known
			a.fail("tee", spared())
			return
		}
		a.fail("tee", err)
		return
	}
	s.claims.TCBStatus, s.claims.TCBNumber, s.claims.Advisories = standing.Word, standing.Number, standing.Advisories
	f := keystead.Finding{Where: "tee", Want: "UpToDate", Got: fmt.Sprintf("%s of %s, advisories %v", standing.Word, standing.Date, standing.Advisories)}
	switch {
	case standing.Word == "Revoked":
		f.Reason = keystead.ReasonTCBRevoked
		a.find(f)
	case standing.Word != "UpToDate" && a.in.Policy.TEECurrent():
		f.Reason = keystead.ReasonTCBOutdated
		a.find(f)
	}
}

// sparing reports whether a policy that only reports levels may pass over an error:
// collateral that is not there or past its time, and a level that is not listed.
func (a *appraisal) sparing(err error) bool {
	return errors.Is(err, keystead.ReasonCollateralMissing) || errors.Is(err, keystead.ReasonCollateralExpired) || errors.Is(err, keystead.ReasonTCBOutdated)
}

// teeNonce tells evidence for this question from other evidence, and holds a TPM in the
// same bundle against what the guest says of it.
func (a *appraisal) teeNonce(s *surroundings) {
	var ak []byte
	if a.parts.TPM != nil {
		ak = a.parts.TPM.AKPublic
	}
	expect, stated := a.in.Expect, a.parts.Binding
	answers := func(b evidence.Binding, ak []byte) bool {
		want := b.ReportData(ak)
		return bytes.Equal(s.data, want[:]) && (s.nonce == nil || bytes.Equal(s.nonce, b.Nonce))
	}
	want := expect.ReportData(ak)
	switch {
	case len(expect.Nonce) == 0:
		a.find(keystead.Finding{Reason: keystead.ReasonNonceMismatch, Where: "expected binding", Want: "a nonce that the verifier chose", Got: "none"})
	case expect.Purpose == evidence.PurposeRaw && (len(expect.SubjectKey) > 0 || ak != nil):
		a.find(keystead.Finding{Reason: keystead.ReasonNonceMismatch, Where: "expected binding",
			Want: "neither subject key nor TPM: report data that is the nonce itself binds none", Got: question(expect)})
	case answers(expect, ak):
	case len(s.data) == len(want) && bytes.Equal(s.data[:32], want[:32]) && (s.nonce == nil || bytes.Equal(s.nonce, expect.Nonce)):
		a.find(keystead.Finding{Reason: keystead.ReasonTEEUnbound, Where: "tee", Want: "report data that names the bundle's TPM key: " + hex.EncodeToString(want[32:]), Got: hex.EncodeToString(s.data[32:])})
	case answers(stated, ak):
		a.find(keystead.Finding{Reason: keystead.ReasonBundleReplayed, Where: "tee", Want: "an answer to " + question(expect), Got: "the answer to " + question(stated)})
	default:
		a.find(keystead.Finding{Reason: keystead.ReasonNonceMismatch, Where: "tee", Want: fmt.Sprintf("report data %x", want),
			Got: cmp.Or(hex.EncodeToString(s.data), "none") + nonceField(s)})
	}
}

func nonceField(s *surroundings) string {
	if s.nonce == nil {
		return ""
	}
	return fmt.Sprintf(", nonce %x", s.nonce)
}

// launched judges what a confidential machine was started with: an image of a code set, or
// of a TD firmware of a code set, which measured a boot of one.
func (a *appraisal) launched() {
	c := &a.claims.TEE
	launch := a.launch()
	c.LaunchName = launch.Name
	a.claims.Boot.Packages = a.bootPackages()
	switch {
	case launch.Image && c.Kind != evidence.KindTDX:
		a.claims.Kernel.Accepted, a.claims.Kernel.Guarantees = true, words(launch.Guarantees)
		return
	case launch.Name != "" && !launch.Image && a.td != nil:
		a.tdKernel()
		return
	case !a.in.Policy.BootAccepted():
		return
	}
	f := keystead.Finding{Reason: keystead.ReasonBootUnaccepted, Where: "launch measurement", Want: a.acceptedLaunches(), Got: cmp.Or(launch.Name, "one that no code set names") + ": " + c.Launch + a.withoutLog()}
	a.find(a.overdue(f, func(b *appraisal) bool {
		l := b.launch()
		return l.Name != "" && l.Image == (c.Kind != evidence.KindTDX)
	}))
}

// withoutLog says that a TD sent no log.
func (a *appraisal) withoutLog() string {
	if a.claims.TEE.Kind == evidence.KindTDX && a.td == nil {
		return ", without its event log"
	}
	return ""
}

// launch returns what a code set accepts under the launch measurement.
func (a *appraisal) launch() refval.Launch {
	m, err := keystead.ParseMeasured(a.claims.TEE.Launch)
	if err != nil {
		return refval.Launch{}
	}
	for _, set := range a.in.CodeSets {
		if l, ok := set.Launch(m); ok {
			return l
		}
	}
	return refval.Launch{}
}

// acceptedLaunches names what a machine of this kind may be launched with.
func (a *appraisal) acceptedLaunches() string {
	kind := "image"
	if a.claims.TEE.Kind == evidence.KindTDX {
		kind = "firmware"
	}
	var names []string
	for _, set := range a.in.CodeSets {
		for l := range set.Launches() {
			if l.Image == (kind == "image") {
				names = append(names, set.Name()+"/"+l.Name)
			}
		}
	}
	if names == nil {
		return "an " + kind + " of a code set, of which none was given"
	}
	return kind + " " + strings.Join(names, " or ")
}

// tdKernel looks for the code set entry that a TD's registers prove. Nothing shows that
// they stayed as they were after the kernel started: whoever came to run could have
// extended them. So each image before the kernel and each other event of RTMR 2 must be
// accepted, none of these be the initrd, which the stub measures last of all, and the
// initrd be one that the kernel does not do without.
func (a *appraisal) tdKernel() {
	measured, err := a.td.Kernel()
	b, strange, ok := a.tdBoot(measured)
	bound := measured.Initrd.IsZero() || slices.Contains(b.Guarantees, refval.GuaranteeInitrdBound)
	switch {
	case err == nil && strange == nil && ok && bound:
		a.accept(b, measured)
	case !a.in.Policy.BootAccepted():
	case err != nil:
		a.fail("cc-event-log", err)
	case strange == nil && ok:
		a.find(keystead.Finding{Reason: keystead.ReasonBootUnaccepted, Where: "initrd" + a.td.Place(measured.Initrd, 2), Want: "boot entry " + b.Name + " with the guarantee " + string(refval.GuaranteeInitrdBound) + ": the host could have left the initrd out",
			Got: fmt.Sprintf("guarantees %v", b.Guarantees)})
	default:
		refused := a.overdue(a.unaccepted(measured, strange), func(x *appraisal) bool {
			_, strange, ok := x.tdBoot(measured)
			return ok && strange == nil
		})
		a.find(append([]keystead.Finding{refused}, a.faults()...)...)
	}
}

// tdBoot returns the code set entry of a TD's boot, and what no set names of the rest that
// was measured.
func (a *appraisal) tdBoot(measured eventlog.Kernel) (b refval.Boot, strange []string, ok bool) {
	b, ok = a.acceptedBoot(measured)
	strange = a.strangeImages()
	for _, m := range measured.Before {
		again := m == measured.CommandLine || ok && eventlog.Kernel{CommandLine: m}.Given(b.CommandLine) // systemd-boot measures it, too
		if m == measured.Initrd || !again && !a.coded(m) {
			strange = append(strange, m.String())
		}
	}
	return b, strange, ok
}

// words are the guarantees as claims have them.
func words(list []refval.Guarantee) (out []string) {
	for _, g := range list {
		out = append(out, string(g))
	}
	return out
}

// ccLog opens the log of a TD's registers, and takes what it proves for claims.
func (a *appraisal) ccLog() {
	t := a.parts.TEE
	if t == nil || t.Log == nil {
		return
	}
	if t.Kind != evidence.KindTDX {
		a.find(keystead.Finding{Reason: keystead.ReasonMalformed, Where: "cc-event-log", Want: "no log beside " + t.Kind, Got: fmt.Sprintf("%d bytes", len(t.Log))})
		return
	}
	log, err := eventlog.OpenCC(t.Log, a.rtmr)
	if err != nil {
		a.fail("cc-event-log", err)
		return
	}
	c := &a.claims.TEE
	c.LogCovered, c.Loaded, c.Booted, c.CommandLines = true, log.Digests(1), log.Digests(2), log.Text()
	if a.parts.TPM == nil {
		a.td, a.claims.Boot = log, log.Boot()
	}
}
