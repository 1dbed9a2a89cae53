package demo

import (
	"context"
	"errors"
	"time"

	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/recording"
	"github.com/keystead/keystead/internal/swtpm"
)

// host is a machine with a TPM of its own and the logs of the recorded boot.
type host struct {
	rec     *recording.Recording
	process *swtpm.TPM
	tpm     *collect.TPM
	phase   int // the next one
}

func startHost(ctx context.Context, ca *swtpm.CA, rec *recording.Recording) (*host, error) {
	process, err := ca.Start(ctx)
	if err != nil {
		return nil, err
	}
	tpm, err := collect.OpenTPM(process.Socket)
	if err != nil {
		return nil, errors.Join(err, process.Stop())
	}
	return &host{rec: rec, process: process, tpm: tpm}, nil
}

func (h *host) stop() error { return errors.Join(h.tpm.Close(), h.process.Stop()) }

// advance lets the TPM measure the next recorded phase.
func (h *host) advance(ctx context.Context) error {
	err := h.rec.Replay(h.phase, func(pcr int, digests map[evidence.Bank][]byte) error {
		return h.tpm.Extend(ctx, pcr, digests)
	})
	h.phase++
	return err
}

// bundle quotes over the nonce, then takes the logs as they stand.
func (h *host) bundle(ctx context.Context, nonce []byte) (evidence.Bundle, error) {
	return h.bundleWith(ctx, nonce, func(*evidence.Parts) {})
}

// bundleWith lets whoever controls the host change what is sent.
func (h *host) bundleWith(ctx context.Context, nonce []byte, change func(*evidence.Parts)) (evidence.Bundle, error) {
	p := evidence.Parts{
		Binding:  evidence.Binding{Purpose: evidence.PurposeVerify, Nonce: nonce},
		Origin:   evidence.Origin{Hostname: "demo-host", Collected: time.Now().Unix(), Note: "logs replayed from a boot recorded on " + h.rec.Recorded.Format(time.DateOnly)},
		EventLog: h.rec.EventLog,
		IMALog:   h.rec.Phases[h.phase-1].IMALog,
		Packages: &evidence.PackageList{Format: evidence.FormatDpkgStatus, Data: h.rec.Status},
	}
	var err error
	if p.TPM, err = h.tpm.Quote(ctx, collect.QuoteRequest{QualifyingData: p.Binding.QualifyingData()}); err != nil {
		return evidence.Bundle{}, err
	}
	change(&p)
	return evidence.New(p)
}
