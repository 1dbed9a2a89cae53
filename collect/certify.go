package collect

import (
	"context"

	"github.com/keystead/keystead/evidence"
	evtpm2 "github.com/keystead/keystead/evidence/tpm2"
)

// Certify has the TPM certify what b binds, by a quote over the registers pcrs (none:
// 0 to 15) of its sha256 and sha384 banks. The result verifies as
// [evtpm2.Certification.Verify] has it.
func (t *TPM) Certify(ctx context.Context, b evidence.Binding, kind AKType, pcrs []int) (*evtpm2.Certification, error) {
	q, err := t.Quote(ctx, QuoteRequest{QualifyingData: b.QualifyingData(), PCRs: pcrs, AK: kind})
	if err != nil {
		return nil, err
	}
	return &evtpm2.Certification{AKPublic: q.AKPublic, Attest: q.Attest, Signature: q.Signature}, nil
}
