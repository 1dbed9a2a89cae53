package admit

import (
	"errors"
	"fmt"
	"slices"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/receipt"
)

// Application is what a node judges when a host asks to be admitted, or renewed.
type Application struct {
	Host   string
	Bundle evidence.Bundle      // with the endorsement key and its certificate in the TPM's part, so that every node judges the same bytes
	Nonce  keystead.Digest      // of a tick entry; that it is one, and not old, is the caller's to check
	Time   uint64               // domain clock of that entry, Unix milliseconds: the time of judgement
	Key    appraise.AcceptedKey // that this node activated by itself; its certificate and time are not used
	Rules  *Rules               // the terms in force for the host's role, opened
	Prior  *appraise.State      // of the host's last evidence, for a bundle that continues it; nil for none
	Own    bool                 // it came on a connection of the very host, which showed its hardware and has its key

	seen *appraise.Boot // what the ledger has of the TPM under this enrolment; nil for nothing
}

// Decision is what came of an application. It is made by Decide and Renew only; the
// zero value admits nobody. A refused application's Decision has the verdict, if it
// came to one.
type Decision struct {
	host    string
	verdict appraise.Verdict
	state   *appraise.State
	against bool
	record  *Record
	renewal *Renewal
}

// Verdict returns the verdict on the evidence; a zero one if there was none.
func (d Decision) Verdict() appraise.Verdict { return d.verdict }

// State is what the host's next evidence may go on from; nil for none.
func (d Decision) State() *appraise.State { return d.state }

// Against reports whether a refusal speaks against the machine: its own key signed the
// answer to this very question, or members ended it. Then its lease is to be
// suspended. Anybody could have sent anything else in its name. A TEE's report is signed by
// the chip, for any guest and any subject key: it speaks against the host only if the
// host itself sent it (Own), and for more than collateral that is lacking or old.
func (d Decision) Against() bool { return d.against }

// Record returns the lease of an admission; false if it was refused.
func (d Decision) Record() (Record, bool) {
	if d.record == nil {
		return Record{}, false
	}
	return *d.record, true
}

// Renewal returns what a renewal records; false if it was refused.
func (d Decision) Renewal() (Renewal, bool) {
	if d.renewal == nil {
		return Renewal{}, false
	}
	return *d.renewal, true
}

// Ruling returns what a node endorses of an admission: it writes lease/host/NAME, the
// record, and lease/verdict/NAME, the verdict. A refused one writes nothing.
func (d Decision) Ruling() Ruling {
	if d.record == nil {
		return Ruling{}
	}
	return Ruling{Content: []byte(d.record.Verdict.String() + "\n"), Writes: []Write{
		{Key: LeaseKey(d.host), Value: d.record.Bytes()}, {Key: VerdictKey(d.host), Value: d.verdict.Bytes()}}}
}

// Decide judges an application to be admitted. It is a pure function of the state and
// the application, so nodes of one build that activated the same key come to the same
// decision, bit by bit. A refusal has all findings.
func Decide(s State, a Application) (Decision, error) {
	a.Prior = nil // what is admitted is judged whole, and so archived
	if err := a.afresh(s); err != nil {
		return Decision{host: a.Host}, err
	}
	seen, err := Seen(s, a.Host)
	if err != nil {
		return Decision{host: a.Host}, err
	}
	a.seen = seen
	h, d, err := a.judge(s, evidence.PurposeAdmission)
	if err != nil {
		return d, err
	}
	last, err := LeaseDuration(s)
	if err != nil {
		return d, err
	}
	claims := d.verdict.Claims()
	d.record = &Record{Until: a.Time + uint64(last.Milliseconds()), Issued: a.Time, Role: h.enrolment.Role, EK: h.enrolment.Identity(), AK: a.ak(h),
		SubjectKey: a.subjectKey(), Assurance: d.verdict.Assurance(), Verdict: d.verdict.Digest(), Enrolment: h.version, Terms: a.Rules.digest,
		Boot: appraise.BootOf(claims.Quote, d.state), Denials: Denials(&claims, h.enrolment.Identity()), Guest: d.verdict.Guest()}
	return d, nil
}

// afresh refuses evidence from before a suspension.
func (a *Application) afresh(s State) error {
	if !receipt.ValidName(a.Host) {
		return nil // nobody of that name is enrolled, which is said later
	}
	x, err := s.Suspension(a.Host)
	if err == nil && x.ends(0, a.Time) {
		err = deny(keystead.ReasonLeaseSuspended, "host "+a.Host, "evidence from after "+at(x.Time)+", when "+x.Node+" suspended its lease: "+x.Reason, "evidence of "+at(a.Time))
	}
	return err
}

// host is an enrolled host.
type host struct {
	enrolment Enrolment
	version   uint64
}

// isTEE reports whether the host's evidence is that of a TEE alone.
func (h host) isTEE() bool { return !h.enrolment.TEE.IsZero() }

// judge is what admission and renewal have in common.
func (a *Application) judge(s State, purpose string) (h host, d Decision, err error) {
	d.host = a.Host
	if h, err = a.enrolled(s); err != nil {
		d.against = errors.Is(err, keystead.ReasonHostRevoked)
		return h, d, err
	}
	if err := a.ready(s, h); err != nil {
		return h, d, err
	}
	findings := a.hardware(h)
	if findings == nil {
		d.verdict, d.state = a.appraise(h, purpose)
		findings = d.verdict.Findings()
		c := d.verdict.Claims()
		d.against = a.against(h, d.verdict)
		more, err := Denied(s, "host "+a.Host, Denials(&c, h.enrolment.Identity()))
		if err != nil {
			return h, d, err
		}
		findings = append(append(findings, more...), a.claimed(h, d.verdict)...)
		if len(findings) == 0 && !h.isTEE() {
			findings = a.backwards(c.Quote)
		}
	}
	if len(findings) > 0 {
		return h, d, keystead.Deny(findings...)
	}
	d.against = false
	return h, d, nil
}

// against reports whether a verdict that refuses, or one whose machine is refused after it,
// speaks against the machine.
func (a *Application) against(h host, v appraise.Verdict) bool {
	if h.isTEE() {
		return a.Own && SpeaksAgainst(v)
	}
	return v.Claims().Key.Name != "" && !errors.Is(v.Err(), keystead.ReasonLogUnknown) // the root of trust held, and the logs were judged
}

// SpeaksAgainst reports whether a TEE's evidence, which its host sent itself, speaks
// against the host where it is refused: it answered, and something is found that is not
// the domain's own affair, as collateral is that is lacking or past its time.
func SpeaksAgainst(v appraise.Verdict) bool {
	return v.Answered() && (v.Allowed() || slices.ContainsFunc(v.Findings(), func(f keystead.Finding) bool { return !slices.Contains(ownAffairs, f.Reason) }))
}

var ownAffairs = []keystead.Reason{keystead.ReasonCollateralMissing, keystead.ReasonCollateralInvalid, keystead.ReasonCollateralExpired, keystead.ReasonPolicyUnusable, keystead.ReasonLogUnknown}

// enrolled finds the host's enrolment, and that it is the one of its hardware.
func (a *Application) enrolled(s State) (h host, err error) {
	where := "host " + a.Host
	if h.enrolment, h.version, err = Enrolled(s, a.Host); err != nil {
		return h, err
	}
	switch {
	case h.version == 0:
		return h, deny(keystead.ReasonHostUnenrolled, where, "an enrolled host", "no enrolment")
	case h.enrolment.Revoked:
		return h, deny(keystead.ReasonHostRevoked, where, "an enrolled host", "an enrolment that members revoked")
	}
	identity := h.enrolment.Identity()
	name, err := HostOf(s, identity)
	if err == nil && name != a.Host {
		err = deny(keystead.ReasonHardwareTaken, where, "a hardware identity that no other host has", fmt.Sprintf("%v, which is %q", identity, name))
	}
	return h, err
}

// ready checks what the node itself brings: the terms in force, and of a TPM an activated
// key.
func (a *Application) ready(s State, h host) error {
	terms, err := TermsOf(s, h.enrolment.Role)
	if err != nil {
		return err
	}
	switch {
	case a.Rules == nil || a.Rules.digest != terms.Digest || a.Rules.role != h.enrolment.Role:
		got := "none"
		if a.Rules != nil {
			got = fmt.Sprintf("%v for %s", a.Rules.digest, a.Rules.role)
		}
		return deny(keystead.ReasonSubjectChanged, "terms", fmt.Sprintf("%v for %s", terms.Digest, h.enrolment.Role), got)
	case !h.isTEE() && (a.Key.IsZero() || a.Key.EKPublic == nil):
		return deny(keystead.ReasonAKUnbound, "host "+a.Host, "a key that this node activated", "none")
	}
	return nil
}
