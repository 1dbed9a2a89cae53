package collect

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/nitro"
	"github.com/keystead/keystead/evidence/snp"
	"github.com/keystead/keystead/evidence/tdx"
)

// A TEEProver makes the evidence of a machine that is a trusted execution environment and
// has no TPM, or whose TPM is not to speak. It is safe for concurrent use; the kernel is
// asked for one report at a time.
type TEEProver struct {
	machine Machine
	note    string

	mu   sync.Mutex
	name evidence.TEEHost // kind and machine, as the first report has them
}

// NewTEEProver returns a prover that asks the machine's TEE. Note is as that of NewProver.
func NewTEEProver(machine Machine, note string) *TEEProver {
	return &TEEProver{machine: machine, note: note}
}

// Introduce returns kind and machine, as a report of the TEE names them: one for a nonce
// that nobody asked for, which is kept from everybody. A verifier believes neither.
func (p *TEEProver) Introduce(context.Context) (evidence.TPMKeys, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.name.IsZero() {
		nonce := make([]byte, 32)
		_, _ = rand.Read(nonce) // never fails
		tee, err := p.ask(evidence.Binding{Purpose: evidence.PurposeVerify, Nonce: nonce})
		if err != nil {
			return evidence.TPMKeys{}, err
		}
		machine, err := machineOf(tee)
		if err != nil {
			return evidence.TPMKeys{}, err
		}
		p.name = evidence.TEEHost{Kind: tee.Kind, Machine: machine}
	}
	return evidence.TPMKeys{TEE: p.name}, nil
}

// Prove asks the TEE for evidence with that binding. It never makes raw evidence, and opens
// no challenge: there is nothing to activate.
func (p *TEEProver) Prove(_ context.Context, binding evidence.Binding, challenge *evidence.Credential) (bundle evidence.Bundle, answer []byte, err error) {
	switch {
	case binding.Purpose == evidence.PurposeRaw || binding.Purpose == "":
		return bundle, nil, errors.New("evidence is made for a purpose that keeps it from serving another")
	case challenge != nil:
		return bundle, nil, errors.New("a TEE has no key to activate, and is asked to")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	parts := evidence.Parts{Binding: binding, Origin: p.machine.Origin(time.Now())}
	parts.Origin.Note = p.note
	if parts.TEE, err = p.ask(binding); err != nil {
		return bundle, nil, err
	}
	bundle, err = evidence.New(parts)
	return bundle, nil, err
}

// ask returns the TEE's evidence, or says what was found in its place.
func (p *TEEProver) ask(b evidence.Binding) (*evidence.TEE, error) {
	tee, sights, err := p.machine.TEE(b, nil)
	if err != nil {
		return nil, err
	}
	if tee == nil {
		text := "no trusted execution environment answers"
		for _, s := range sights {
			text += fmt.Sprintf("; %s: %s", s.What, s.Detail)
		}
		return nil, errors.New(text)
	}
	return tee, nil
}

// machineOf returns the claim tee.machine of evidence whose signature is not looked at.
func machineOf(t *evidence.TEE) (string, error) {
	switch t.Kind {
	case evidence.KindSNP:
		r, err := snp.Parse(t.Report)
		if err != nil {
			return "", err
		}
		if r.ChipMasked() {
			return "", errors.New("the platform masks the chip's identity (MASK_CHIP_ID): its guests can not be told from those of other machines, and no node takes their reports")
		}
		return hex.EncodeToString(r.ChipID), nil
	case evidence.KindTDX:
		q, err := tdx.Parse(t.Report)
		if err != nil {
			return "", err
		}
		ppid, err := q.PPID()
		return hex.EncodeToString(ppid), err
	case evidence.KindNitro:
		d, err := nitro.Parse(t.Report)
		if err != nil {
			return "", err
		}
		return d.ModuleID, nil
	}
	return "", fmt.Errorf("evidence of %.40q names no machine of a host", t.Kind)
}
