package admit

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/tpm2"
)

// hardware holds the endorsement key in the bundle against the activated one and the
// enrolled one.
func (a *Application) hardware(h host) []keystead.Finding {
	if h.isTEE() {
		return a.teeHardware(h)
	}
	tpm := a.Bundle.Parts().TPM
	if tpm == nil || tpm.EKPublic == nil || len(tpm.EKCertificate) == 0 {
		return []keystead.Finding{{Reason: keystead.ReasonEvidenceMissing, Where: "tpm", Want: "a quote, the endorsement key and its certificate", Got: "not all of them"}}
	}
	var findings []keystead.Finding
	var good []byte // was found to be of the enrolled identity
	for _, k := range []struct {
		where  string
		public []byte
	}{{"endorsement key of the evidence", tpm.EKPublic}, {"activated endorsement key", a.Key.EKPublic}} {
		if findings == nil && bytes.Equal(k.public, good) {
			continue // read already
		}
		ek, err := tpm2.ParsePublic(k.public)
		if err != nil {
			findings = append(findings, keystead.Finding{Reason: keystead.ReasonMalformed, Where: k.where, Want: "a public area", Got: err.Error()})
		} else if got := ek.Fingerprint(); got != h.enrolment.EK {
			findings = append(findings, keystead.Finding{Reason: keystead.ReasonHardwareForeign, Where: k.where, Want: fmt.Sprintf("%v, as %s is enrolled", h.enrolment.EK, a.Host), Got: got.String()})
		}
		good = k.public
	}
	if findings == nil && !publicKey(a.subjectKey()) {
		findings = append(findings, keystead.Finding{Reason: keystead.ReasonEvidenceMissing, Where: "binding", Want: "a subject key: ECDSA or Ed25519, PKIX DER", Got: fmt.Sprintf("%d bytes %.64x", len(a.subjectKey()), a.subjectKey())})
	}
	return findings
}

// teeHardware wants evidence of a TEE alone, of the enrolled kind and for the enrolled key.
// Nothing else in a report is known before its signature.
func (a *Application) teeHardware(h host) (findings []keystead.Finding) {
	e, p := h.enrolment.TEE, a.Bundle.Parts()
	find := func(reason keystead.Reason, where, want, got string) {
		findings = append(findings, keystead.Finding{Reason: reason, Where: where, Want: want, Got: got})
	}
	switch {
	case p.TEE == nil:
		find(keystead.ReasonEvidenceMissing, "tee", "a report of "+e.Kind+", as "+a.Host+" is enrolled", "nothing")
	case p.TEE.Kind != e.Kind:
		find(keystead.ReasonHardwareForeign, "tee", e.Kind+", as "+a.Host+" is enrolled", p.TEE.Kind)
	case p.TPM != nil:
		find(keystead.ReasonHardwareForeign, "tpm", "evidence of a TEE alone, as "+a.Host+" is enrolled", "a quote of a TPM beside it")
	}
	if key := a.subjectKey(); !publicKey(key) {
		find(keystead.ReasonEvidenceMissing, "binding", "a subject key: ECDSA or Ed25519, PKIX DER", fmt.Sprintf("%d bytes %.64x", len(key), key))
	} else if got := keystead.Sum(key); got != e.Key {
		find(keystead.ReasonHardwareForeign, "subject key", e.Key.String()+", as "+a.Host+" is enrolled", got.String())
	}
	return findings
}

// ak names the attestation key; zero for a host without a TPM.
func (a *Application) ak(h host) keystead.Digest {
	if h.isTEE() {
		return keystead.Digest{}
	}
	return keystead.Sum(a.Key.Name)
}

func (a *Application) subjectKey() []byte { return a.Bundle.Parts().Binding.SubjectKey }

// publicKey reports whether der is the one encoding of a key that can sign.
func publicKey(der []byte) bool {
	k, err := x509.ParsePKIXPublicKey(der)
	if err != nil || len(der) > maxSubjectKey {
		return false
	}
	switch k.(type) {
	case *ecdsa.PublicKey, ed25519.PublicKey:
		again, err := x509.MarshalPKIXPublicKey(k)
		return err == nil && bytes.Equal(again, der)
	}
	return false
}

// appraise judges the evidence by the terms. Of the accepted key only its name is this
// node's own: all else is in the bundle, or the time of the tick, so that verdicts are
// equal bit by bit.
func (a *Application) appraise(h host, purpose string) (appraise.Verdict, *appraise.State) {
	now := time.UnixMilli(int64(a.Time)).UTC()
	in := a.Rules.Input(now)
	if h.isTEE() {
		in = a.Rules.TEEInput(now)
	} else {
		tpm := a.Bundle.Parts().TPM
		in.Key = appraise.AcceptedKey{Name: a.Key.Name, EKPublic: tpm.EKPublic, EKCertificate: tpm.EKCertificate, Activated: now}
		in.Prior, in.Seen = a.Prior, a.seen
	}
	in.Bundle, in.Time = a.Bundle, now
	in.Expect = evidence.Binding{Purpose: purpose, Nonce: a.Nonce[:], SubjectKey: a.subjectKey()}
	return appraise.Follow(in)
}

// claimed wants an allowed verdict to be of the enrolled hardware, and of a TPM by a key
// whose quotes tell one boot from another.
func (a *Application) claimed(h host, v appraise.Verdict) (out []keystead.Finding) {
	if !v.Allowed() {
		if len(v.Findings()) == 0 {
			out = append(out, keystead.Finding{Reason: keystead.ReasonPolicyUnusable, Where: "verdict", Want: "a verdict", Got: "none"})
		}
		return out
	}
	c := v.Claims()
	if h.isTEE() {
		want := h.enrolment.TEE
		if got := (evidence.TEEHost{Kind: c.TEE.Kind, Machine: c.TEE.Machine, Key: keystead.Sum(v.Inputs().SubjectKey)}); !v.Answered() || got != want {
			out = append(out, keystead.Finding{Reason: keystead.ReasonHardwareForeign, Where: "verdict", Want: fmt.Sprintf("%s %s with the key %v, as %s is enrolled", want.Kind, want.Machine, want.Key, a.Host),
				Got: fmt.Sprintf("%s %s with the key %v", got.Kind, got.Machine, got.Key)})
		}
		return out
	}
	if c.Key.Binding != appraise.BindingActivated || c.Key.EK != h.enrolment.EK.String() {
		out = append(out, keystead.Finding{Reason: keystead.ReasonHardwareForeign, Where: "verdict", Want: h.enrolment.EK.String(), Got: c.Key.EK + ", bound by " + c.Key.Binding})
	}
	if c.Quote.Firmware == "" {
		out = append(out, keystead.Finding{Reason: keystead.ReasonKeyUnsuitable, Where: "attestation key", Want: "a primary key of the endorsement hierarchy, whose quotes show the reset count", Got: "another"})
	}
	return out
}
