package appraise

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/eventlog"
	"github.com/keystead/keystead/evidence/ima"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/policy"
	"github.com/keystead/keystead/refval"
)

// maxFindings bounds a verdict; claims still count what is left out.
const maxFindings = 256

// Vocabulary is what policies may speak of: the claims that appraisal establishes.
func Vocabulary() policy.Vocabulary {
	v := policy.Vocabulary{Claims: evidence.Claims{}, Formats: []string{refval.FormatDeb.String(), refval.FormatRPM.String(), refval.FormatAPK.String()}}
	for _, a := range evidence.Assurances() {
		v.Levels = append(v.Levels, a.String())
	}
	return v
}

// Input is everything that a verdict is made of. A nil set or code set counts for nothing.
type Input struct {
	Bundle     evidence.Bundle
	Expect     evidence.Binding     // the question that the verifier asked
	Key        AcceptedKey          // zero: no key is accepted, and the verdict says ak-binding none
	EKRoots    tpm2.Roots           // for the accepted key's endorsement certificate
	References []*refval.Set        // what packages ship
	CodeSets   []*refval.CodeSet    // what else is accepted, and how the machine may boot
	Ended      []Dated              // sets that count no more, as Add finds them: what they alone vouched for is refused with grace-ended
	Collateral *evidence.Collateral // what vendors of TEEs say of their machines; nil for none
	TEERoots   evidence.VendorRoots // whose TEEs count; none: nobody's
	Policy     *policy.Policy       // without one nothing is allowed
	Time       time.Time            // of judgement
	Memory     *Memory              // of earlier appraisals; nil for none. No verdict depends on it
	Prior      *State               // for a bundle that continues; nil for none
	Seen       *Boot                // what the TPM last said, if it is known; it allows nothing, and only gives a refusal its reason
}

// Appraise judges the evidence. It never fails: what speaks against the host, bytes
// that do not parse among it, is a finding of the verdict.
func Appraise(in Input) Verdict { return Explain(in, nil) }

// Rooted reports whether the root of trust of the evidence holds: the accepted key signed
// an answer to the question. It opens no log, so long evidence costs it no more than short.
func Rooted(in Input) bool {
	a := &appraisal{in: in, parts: in.Bundle.Parts()}
	a.rootOfTrust()
	return a.sound()
}

// Follow is Appraise, and returns from what the next bundle may go on: nil if nothing is
// to be kept, as of evidence that was refused.
func Follow(in Input) (Verdict, *State) {
	a := appraise(in, nil)
	return a.verdict(), a.state()
}

// Explain is Appraise, and tells each file of the covered IMA log in turn, of a
// continuation those that it brings. Each may be nil.
func Explain(in Input, each func(File)) Verdict {
	a := appraise(in, each)
	return a.verdict()
}

func appraise(in Input, each func(File)) *appraisal {
	in.References, in.CodeSets = present(in.References), present(in.CodeSets)
	in.Ended = slices.DeleteFunc(slices.Clone(in.Ended), func(d Dated) bool { return d.References == nil && d.CodeSet == nil })
	a := &appraisal{in: in, parts: in.Bundle.Parts(), each: each}
	if a.rootOfTrust(); !a.sound() {
		a.claims, a.assurance = evidence.Claims{}, evidence.AssuranceNone // the bundle's own words
	} else {
		if a.logs(); a.sound() {
			a.established = true
			a.kernel()
			a.software()
			a.assure()
			a.policy()
		}
	}
	return a
}

// present returns what of a list is not nil.
func present[T any](list []*T) []*T {
	return slices.DeleteFunc(slices.Clone(list), func(t *T) bool { return t == nil })
}

// appraisal gathers findings and claims on the way.
type appraisal struct {
	in          Input
	parts       evidence.Parts
	each        func(File)
	findings    []keystead.Finding
	omitted     int
	claims      evidence.Claims
	assurance   evidence.Assurance
	covered     []evidence.PCRs
	established bool
	answered    bool                // a TEE alone did
	guest       keystead.Digest     // then
	boot        *eventlog.Log       // nil in a continuation
	booted      evidence.BootClaims // as the event log has them
	measured    eventlog.Kernel
	measuredErr error
	files       *ima.List
	rtmr        [eventlog.RTMRs][]byte // of a TD
	td          *eventlog.CCLog        // of a TD without a TPM
	refs        *references
	prior       *State       // that a continuation goes on from
	faulty      []faultyBoot // what the boot would have been accepted by
	replaced    bool         // another kernel runs than the firmware started
}

func (a *appraisal) sound() bool { return len(a.findings) == 0 }

func (a *appraisal) find(f ...keystead.Finding) {
	room := maxFindings - len(a.findings)
	if len(f) > room {
		a.omitted += len(f) - room
		f = f[:room]
	}
	a.findings = append(a.findings, f...)
}

// fail records an error of one of the rooms below; where names the part of the
// bundle if the error does not.
func (a *appraisal) fail(where string, err error) {
	var deny *keystead.DenyError
	if errors.As(err, &deny) {
		a.find(deny.Findings...)
	} else if err != nil {
		a.find(keystead.Finding{Reason: keystead.ReasonMalformed, Where: where, Want: "well-formed evidence", Got: err.Error()})
	}
}

func (a *appraisal) missing(where, want string) {
	a.find(keystead.Finding{Reason: keystead.ReasonEvidenceMissing, Where: where, Want: want, Got: "nothing"})
}

// rootOfTrust settles what the TPM said, and whose TPM it is.
func (a *appraisal) rootOfTrust() {
	a.claims.Key.Binding = a.in.Key.binding()
	if a.in.Policy.IsZero() {
		a.find(keystead.Finding{Reason: keystead.ReasonPolicyUnusable, Where: "policy", Want: "a policy", Got: "none"})
	}
	if a.parts.TEE != nil {
		a.tee()
	}
	tpm := a.parts.TPM
	if tpm == nil {
		if a.parts.TEE == nil || !a.in.Policy.TEE() {
			a.missing("tpm", "a TPM quote")
		}
		return
	}
	ak, err := tpm2.ParsePublic(tpm.AKPublic)
	if err != nil {
		a.fail("tpm.attestation-key", err)
		return
	}
	a.claims.Key.Name, a.claims.Key.Algorithm = hex.EncodeToString(ak.Name()), ak.Algorithm()
	a.key(ak)
	quote, err := tpm2.VerifyQuote(ak, tpm.Attest, tpm.Signature)
	if err != nil {
		a.fail("tpm.quote", err)
		return
	}
	a.nonce(quote)
	a.quote(quote)
}

// key holds the bundle's key against the accepted one.
func (a *appraisal) key(ak *tpm2.Public) {
	accepted := a.in.Key
	if accepted.IsZero() {
		return
	}
	if !bytes.Equal(ak.Name(), accepted.Name) {
		a.find(keystead.Finding{Reason: keystead.ReasonKeyForeign, Where: "attestation key",
			Want: "name " + hex.EncodeToString(accepted.Name), Got: "name " + hex.EncodeToString(ak.Name())})
		return
	}
	a.assurance = evidence.AssuranceTest
	if accepted.EKPublic == nil {
		return
	}
	ek, err := tpm2.ParsePublic(accepted.EKPublic)
	if err != nil {
		a.fail("accepted key: ek_public", err)
		return
	}
	id, err := a.in.Memory.verifyEK(accepted.EKCertificate, ek, accepted.EKPublic, a.in.EKRoots, a.in.Time)
	if err != nil {
		a.fail("accepted key: ek_certificate", err)
		return
	}
	k := &a.claims.Key
	k.EK, k.Issuer, k.IssuerKey, k.Software = id.Key.String(), id.Issuer, id.IssuerKey.String(), id.Software
	if !id.Software {
		a.assurance = evidence.AssuranceMeasuredOSWeak
	}
}

// nonce tells evidence for this question from old evidence and from evidence for none.
func (a *appraisal) nonce(q *tpm2.Quote) {
	want := a.in.Expect.QualifyingData()
	switch {
	case len(a.in.Expect.Nonce) == 0: // any old answer would do
		a.find(keystead.Finding{Reason: keystead.ReasonNonceMismatch, Where: "expected binding", Want: "a nonce that the verifier chose", Got: "none"})
	case a.in.Expect.Purpose == evidence.PurposeRaw && len(a.in.Expect.SubjectKey) > 0:
		a.find(keystead.Finding{Reason: keystead.ReasonNonceMismatch, Where: "expected binding",
			Want: "no subject key: qualifying data that is the nonce itself binds none", Got: question(a.in.Expect)})
	case bytes.Equal(q.ExtraData, want):
	case bytes.Equal(q.ExtraData, a.parts.Binding.QualifyingData()):
		a.find(keystead.Finding{Reason: keystead.ReasonBundleReplayed, Where: "quote",
			Want: "an answer to " + question(a.in.Expect), Got: "the answer to " + question(a.parts.Binding)})
	default:
		a.find(keystead.Finding{Reason: keystead.ReasonNonceMismatch, Where: "quote",
			Want: fmt.Sprintf("qualifying data %x", want), Got: fmt.Sprintf("%x", q.ExtraData)})
	}
}

// question puts a binding in words.
func question(b evidence.Binding) string {
	s := fmt.Sprintf("nonce %x for purpose %.40q", b.Nonce, b.Purpose)
	if len(b.SubjectKey) > 0 {
		s += " with subject key " + keystead.Sum(b.SubjectKey).String()
	}
	return s
}

func (a *appraisal) quote(q *tpm2.Quote) {
	stated, err := a.parts.TPM.PCRBanks()
	if err != nil {
		a.fail("tpm.pcrs", err)
		return
	}
	if a.covered, err = q.CheckPCRs(stated); err != nil {
		a.fail("tpm.pcrs", err)
		return
	}
	// SHA-256 first, whatever the TPM's order: most code sets name boots by it.
	slices.SortFunc(a.covered, func(p, q evidence.PCRs) int { return cmp.Compare(p.Bank, q.Bank) })
	a.claims.Quote = q.Claims()
}

// logs opens both logs; each complains for itself.
func (a *appraisal) logs() {
	if from, ok := a.in.Bundle.Continues(); ok {
		a.resume(from)
		return
	}
	var err error
	a.ccLog()
	if a.parts.TPM == nil {
		if a.parts.EventLog != nil || a.parts.IMALog != nil {
			a.missing("tpm", "a TPM quote, whose registers the logs lead to")
		}
		return
	}
	if a.parts.EventLog == nil {
		a.missing("event-log", "the firmware's event log")
	} else if a.boot, err = eventlog.Open(a.parts.EventLog, a.covered); err != nil {
		a.fail("event-log", err)
	} else {
		a.booted = a.boot.Boot()
		a.claims.Boot = a.booted
		a.measured, a.measuredErr = a.boot.Kernel()
	}
	switch {
	case a.parts.IMALog == nil && a.in.Policy.EveryEntry():
		a.missing("ima-log", "the kernel's IMA log, which the policy asks for")
	case a.parts.IMALog != nil:
		if a.files, err = ima.Open(a.parts.IMALog, a.covered, ima.Register); err != nil {
			a.fail("ima-log", a.lost(err))
		} else if err = a.files.CheckBootAggregate(a.covered); err != nil {
			a.fail("ima-log", err)
		}
	}
}

// policy asks for the assurance and the rules.
func (a *appraisal) policy() {
	p := a.in.Policy
	minimum, err := evidence.ParseAssurance(p.MinimumAssurance())
	if err != nil {
		a.find(keystead.Finding{Reason: keystead.ReasonPolicyUnusable, Where: "minimum-assurance", Want: "a known level", Got: p.MinimumAssurance()})
	}
	if a.in.Key.IsZero() && a.parts.TPM != nil && minimum > evidence.AssuranceNone {
		a.find(keystead.Finding{Reason: keystead.ReasonAKUnbound, Where: "attestation key", Want: "a key that the verifier accepts (--ak)", Got: "ak-binding=none"})
	}
	if a.assurance < minimum {
		a.find(keystead.Finding{Reason: keystead.ReasonAssuranceLow, Where: "assurance", Want: minimum.String() + " or more", Got: a.assurance.String() + a.lackOfTPM()})
	}
	a.claims.Assurance = a.assurance.String()
	for _, r := range p.Eval(&a.claims) {
		if !r.OK {
			a.find(r.Finding())
		}
	}
}

// assure raises a hardware TPM's verdict to measured-os if nothing is lacking.
func (a *appraisal) assure() {
	if a.assurance == evidence.AssuranceMeasuredOSWeak && a.lack() == "" {
		a.assurance = evidence.AssuranceMeasuredOS
	}
}

// lackOfTPM is lack, where a TPM speaks.
func (a *appraisal) lackOfTPM() string {
	if a.parts.TPM == nil {
		return ""
	}
	return a.lack()
}

// lack says what keeps the assurance from measured-os.
func (a *appraisal) lack() string {
	var lacks []string
	k := a.claims.Kernel
	if a.claims.Key.Binding != BindingActivated {
		lacks = append(lacks, "credential activation")
	}
	if a.claims.Key.Software {
		lacks = append(lacks, "a hardware TPM")
	}
	if k.Lockdown != "confidentiality" {
		lacks = append(lacks, "lockdown=confidentiality on an accepted command line")
	}
	for _, g := range []refval.Guarantee{refval.GuaranteeIMAPolicy, refval.GuaranteePtraceScope3} {
		if !slices.Contains(k.Guarantees, string(g)) {
			lacks = append(lacks, "an accepted initrd that guarantees "+string(g))
		}
	}
	if s := a.claims.Software; s.Named == 0 || s.Named+1 < s.Entries {
		lacks = append(lacks, "executed files of packages or code sets alone")
	}
	if d := a.claims.Packages.Debuggers; len(d) > 0 {
		lacks = append(lacks, "reference values without debuggers ("+strings.Join(d, ", ")+")")
	}
	if len(lacks) == 0 {
		return ""
	}
	return ", lacking " + strings.Join(lacks, "; ")
}

func (a *appraisal) verdict() Verdict {
	in := a.in
	body := verdictBody{Allowed: a.sound(), Established: a.established, Assurance: a.assurance, Findings: a.findings, Omitted: a.omitted, Claims: a.claims, Inputs: Inputs{
		Bundle: in.Bundle.Digest(), Purpose: in.Expect.Purpose, Nonce: in.Expect.Nonce, SubjectKey: in.Expect.SubjectKey,
		Key: in.Key, EKRoots: rootsDigest(in.EKRoots), Time: in.Time.UTC(),
		Collateral: in.Collateral.Digest(), TEERoots: teeRootsDigest(in.TEERoots),
	}}
	body.Claims.Assurance = a.assurance.String()
	for _, s := range in.References {
		body.Inputs.References = append(body.Inputs.References, s.Digest())
	}
	for _, c := range in.CodeSets {
		body.Inputs.CodeSets = append(body.Inputs.CodeSets, c.Digest())
	}
	body.Inputs.Ended = in.ended()
	if !in.Policy.IsZero() {
		body.Inputs.Policy, body.Inputs.PolicyName = in.Policy.Digest(), in.Policy.Name()
	}
	v := mint(body)
	v.answered, v.guest = a.answered, a.guest
	return v
}

// rootsDigest names the endorsement roots, in order, by kind.
func rootsDigest(r tpm2.Roots) keystead.Digest {
	var all []byte
	for i, certs := range [][]*x509.Certificate{r.Hardware, r.Test, r.Intermediates} {
		for _, c := range certs {
			d := keystead.Sum(c.Raw)
			all = append(append(all, byte(i)), d[:]...)
		}
	}
	return keystead.Sum(all)
}

// teeRootsDigest names the pinned roots, in order, by kind; zero for none.
func teeRootsDigest(r evidence.VendorRoots) keystead.Digest {
	var all []byte
	for i, digests := range [][]keystead.Digest{r.Hardware, r.Test} {
		for _, d := range digests {
			all = append(append(all, byte(i)), d[:]...)
		}
	}
	if all == nil {
		return keystead.Digest{}
	}
	return keystead.Sum(all)
}
