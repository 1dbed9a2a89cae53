package admit

import (
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/key"
)

// Newcomer judges evidence of a machine that is to be a node, as nodes would that had its TPM open a
// challenge: that it would open one is taken for granted, for nobody speaks to it yet. It returns
// what on the deny list would deny the machine (for Denied), as far as that could be established, and
// what else speaks against it: key-foreign if the attestation key is not the one of its contact, and
// what its verdict finds. It admits nobody.
func Newcomer(rules *Rules, bundle evidence.Bundle, expect evidence.Binding, ak key.AKDigest, now time.Time) (denials []string, err error) {
	tpm := bundle.Parts().TPM
	if tpm == nil || tpm.EKPublic == nil {
		return nil, deny(keystead.ReasonEvidenceMissing, "tpm", "a quote and the endorsement key", "not both")
	}
	if got := key.DigestAK(tpm.AKPublic); got != ak {
		return nil, deny(keystead.ReasonKeyForeign, "evidence", "the attestation key of the contact, "+ak.String(), got.String())
	}
	public, err := tpm2.ParsePublic(tpm.AKPublic)
	if err != nil {
		return nil, err
	}
	ek, err := tpm2.ParsePublic(tpm.EKPublic)
	if err != nil {
		return nil, err
	}
	in := rules.Input(now)
	in.Bundle, in.Expect, in.Time = bundle, expect, now
	in.Key = appraise.AcceptedKey{Name: public.Name(), EKPublic: tpm.EKPublic, EKCertificate: tpm.EKCertificate, Activated: now}
	v := appraise.Appraise(in)
	claims := v.Claims()
	return Denials(&claims, ek.Fingerprint()), v.Err()
}
