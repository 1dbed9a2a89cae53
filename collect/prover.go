package collect

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/keystead/keystead/evidence"
)

// A Prover makes this machine's evidence for whoever it is connected to. It is safe
// for concurrent use; the TPM takes one at a time.
type Prover struct {
	tpm     *TPM
	machine Machine
	kind    AKType
	note    string
	rpm     rpmMemory

	mu   sync.Mutex
	keys evidence.TPMKeys // as the TPM gave them the first time; they do not change
}

// NewProver returns a prover that quotes by the attestation key of that kind. Note is
// what evidence says of itself for people, such as that it is of a recording; it may
// be empty.
func NewProver(tpm *TPM, machine Machine, kind AKType, note string) *Prover {
	return &Prover{tpm: tpm, machine: machine, kind: kind, note: note}
}

// Introduce returns the TPM's attestation key, endorsement key and certificate.
func (p *Prover) Introduce(ctx context.Context) (evidence.TPMKeys, error) {
	p.mu.Lock()
	keys := p.keys
	p.mu.Unlock()
	if keys.AKPublic != nil {
		return keys, nil
	}
	ek, err := p.tpm.EK(ctx)
	if err != nil {
		return evidence.TPMKeys{}, err
	}
	ak, err := p.tpm.AK(ctx, p.kind)
	if err != nil {
		return evidence.TPMKeys{}, err
	}
	keys = evidence.TPMKeys{AKPublic: ak, EKPublic: ek.Public, EKCertificate: ek.Chain}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys = keys
	return keys, nil
}

// Prove opens the challenge, if there is one, quotes with that binding, and then reads
// the logs. It never makes raw evidence, which would answer for any purpose.
func (p *Prover) Prove(ctx context.Context, binding evidence.Binding, challenge *evidence.Credential) (bundle evidence.Bundle, answer []byte, err error) {
	if binding.Purpose == evidence.PurposeRaw || binding.Purpose == "" {
		return bundle, nil, errors.New("evidence is made for a purpose that keeps it from serving another")
	}
	if challenge != nil {
		if answer, err = p.tpm.Activate(ctx, p.kind, challenge.Blob, challenge.Secret); err != nil {
			return bundle, nil, err
		}
	}
	parts := evidence.Parts{Binding: binding, Origin: p.machine.Origin(time.Now())}
	parts.Origin.Note = p.note
	if parts.TPM, err = p.tpm.Quote(ctx, QuoteRequest{QualifyingData: binding.QualifyingData(), AK: p.kind}); err != nil {
		return bundle, nil, err
	}
	if binding.Purpose != evidence.PurposeConnection { // who judges it has not met the machine, or has to judge the same bytes as others
		keys, err := p.Introduce(ctx)
		if err != nil {
			return bundle, nil, err
		}
		parts.TPM.EKPublic, parts.TPM.EKCertificate = keys.EKPublic, keys.EKCertificate
	}
	if _, err = p.machine.read(&parts, &p.rpm); err != nil {
		return bundle, nil, err
	}
	bundle, err = evidence.New(parts)
	return bundle, answer, err
}
