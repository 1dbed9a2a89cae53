package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"strings"
	"time"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/attest"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/internal/recording"
)

// synthetic is a host of the load: the logs of the recorded boot, and a TPM in memory.
type synthetic struct {
	*fakeTPM
	name  string
	ek    keystead.Digest
	rec   *recording.Recording
	phase int
	cert  tls.Certificate
	spki  []byte
	input appraise.Input // by which it judges nodes
	api   *client.Host   // to the node that it stays with
	tick  uint64         // that it answered last
}

func newSynthetic(d *domain, n int) (*synthetic, error) {
	t, err := newFakeTPM(d.authority, int64(n+2), d.stage.Recording)
	if err != nil {
		return nil, err
	}
	h := &synthetic{fakeTPM: t, name: hostName(n), rec: d.stage.Recording, input: d.input}
	if h.cert, err = attest.NewCertificate(); err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(h.cert.Certificate[0])
	if err != nil {
		return nil, err
	}
	h.spki = leaf.RawSubjectPublicKeyInfo
	ek, err := tpm2.ParsePublic(t.keys.EKPublic)
	h.ek = ek.Fingerprint()
	return h, err
}

// Prove implements attest.Prover.
func (h *synthetic) Prove(_ context.Context, b evidence.Binding, challenge *evidence.Credential) (bundle evidence.Bundle, answer []byte, err error) {
	if challenge != nil {
		if answer, err = h.activate(challenge); err != nil {
			return bundle, nil, err
		}
	}
	bundle, err = h.bundle(b)
	return bundle, answer, err
}

func (h *synthetic) bundle(b evidence.Binding) (evidence.Bundle, error) {
	q, err := h.quote(b)
	if err != nil {
		return evidence.Bundle{}, err
	}
	return evidence.New(evidence.Parts{Binding: b, TPM: q, EventLog: h.rec.EventLog, IMALog: h.rec.Phases[h.phase].IMALog,
		Packages: &evidence.PackageList{Format: evidence.FormatDpkgStatus, Data: h.rec.Status}})
}

func (h *synthetic) dial(ctx context.Context, to client.Contact) (net.Conn, error) {
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", strings.TrimPrefix(to.API, "https://"))
	if err != nil {
		return nil, err
	}
	judge := attest.NewAppraiser(func(context.Context, keystead.Digest) (attest.Terms, error) {
		in := h.input
		in.Time = time.Now()
		return attest.Terms{Name: "node", Input: in}, nil
	})
	return attest.Client(ctx, raw, attest.Config{Certificate: h.cert, Prover: h, Verifier: judge})
}

// meet shows evidence to every node, and stays connected to one of them.
func (h *synthetic) meet(ctx context.Context, contacts map[string]client.Contact, stay string) error {
	for name, to := range contacts {
		api := client.NewHost(client.HostOptions{Dial: h.dial, MaxAge: time.Hour, Attempt: 30 * time.Second})
		api.Nodes(map[string]client.Contact{name: to})
		if _, err := api.Nonce(ctx); err != nil {
			return err
		}
		if name == stay {
			h.api = api
		} else {
			api.Close()
		}
	}
	return nil
}

// evidence answers the newest nonce.
func (h *synthetic) evidence(n *apiv1.NonceResponse, purpose string) ([]byte, error) {
	b, err := h.bundle(evidence.Binding{Purpose: purpose, Nonce: n.GetNonce(), SubjectKey: h.spki})
	return b.Bytes(), err
}

func (h *synthetic) admit(ctx context.Context) error {
	n, err := h.api.Nonce(ctx)
	if err != nil {
		return err
	}
	h.tick = n.GetTick()
	b, err := h.evidence(n, evidence.PurposeAdmission)
	if err != nil {
		return err
	}
	_, err = h.api.Admit(ctx, &apiv1.AdmitRequest{Host: h.name, Bundle: b, Tick: n.GetTick()})
	return err
}

// renew answers a nonce that it has not answered yet; false if there is none.
func (h *synthetic) renew(ctx context.Context, n *apiv1.NonceResponse) (bool, error) {
	if n.GetTick() == h.tick {
		return false, nil
	}
	b, err := h.evidence(n, evidence.PurposeRenewal)
	if err != nil {
		return false, err
	}
	if _, err = h.api.Renew(ctx, &apiv1.RenewRequest{Host: h.name, Bundle: b, Tick: n.GetTick()}); err != nil {
		return false, err
	}
	h.tick = n.GetTick()
	return true, nil
}
