package main

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/attest"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/ima"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/internal/recording"
	"github.com/keystead/keystead/refval"
	"github.com/keystead/keystead/refval/deb"
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
	grows *growth
	again *atomic.Int64      // renewals that nodes wanted whole
	grown int                // how often its log has grown
	from  evidence.Reference // what nodes have of its logs
}

func newSynthetic(d *domain, n int) (*synthetic, error) {
	t, err := newFakeTPM(d.authority, int64(n+2), d.rec)
	if err != nil {
		return nil, err
	}
	h := &synthetic{fakeTPM: t, name: hostName(n), rec: d.rec, input: d.input, grows: d.growth, again: &d.again}
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
	return evidence.New(h.parts(b, q))
}

func (h *synthetic) parts(b evidence.Binding, q *evidence.TPM) evidence.Parts {
	log := h.rec.Phases[h.phase].IMALog
	if h.phase == 0 {
		log = h.grows.logs[h.grown]
	}
	return evidence.Parts{Binding: b, TPM: q, EventLog: h.rec.EventLog, IMALog: log, Packages: &evidence.PackageList{Format: evidence.FormatDpkgStatus, Data: h.rec.Status}}
}

// gained is the evidence of a host that has run ten files more, as far as nodes have not
// seen it.
func (h *synthetic) gained(b evidence.Binding) ([]byte, error) {
	h.grown = min(h.grown+1, len(h.grows.logs)-1)
	h.banks = h.grows.banks[h.grown]
	if h.from.IsZero() {
		w, err := h.bundle(b)
		return w.Bytes(), err
	}
	q, err := h.quote(b)
	if err != nil {
		return nil, err
	}
	c, err := evidence.Continue(h.parts(b, q), h.from)
	return c.Bytes(), err
}

// remember keeps what a node said that it has.
func (h *synthetic) remember(r *apiv1.Replayed) {
	h.from = evidence.Reference{}
	if r != nil {
		h.from = evidence.Reference{EventLog: keystead.Digest(r.GetEventLog()), IMALog: keystead.Digest(r.GetImaLog()), Bytes: r.GetBytes(), Entries: r.GetEntries(),
			Packages: keystead.Digest(r.GetPackages())}
	}
}

// growth is the log that every synthetic host has in the end, cut after each ten entries,
// with the registers there.
type growth struct {
	logs  [][]byte
	banks [][]evidence.PCRs
}

const gains = 10 // entries between two renewals

// newGrowth appends files of the reference set to the recorded log.
func newGrowth(rec *recording.Recording, set *refval.Set) *growth {
	log := bytes.Clone(rec.Phases[0].IMALog)
	banks := slices.Clone(rec.Phases[0].PCRs)
	g := &growth{logs: [][]byte{log}, banks: [][]evidence.PCRs{banks}}
	listed := map[string]bool{}
	names, _ := deb.ParseStatus(rec.Status) // if it does not parse, nobody is admitted
	for _, n := range names {
		listed[n.Package] = true
	}
	u32 := func(b []byte, n int) []byte { return binary.LittleEndian.AppendUint32(b, uint32(n)) }
	var ends []int
	for i := 0; i < set.Len() && len(ends) < 5000; i++ {
		r := set.Ref(i)
		if !listed[r.Source.Package] {
			continue
		}
		data := append(append(u32(nil, 40), "sha256:\x00"...), r.Digest[:]...)
		data = append(append(u32(data, len(r.Source.Path)+1), r.Source.Path...), 0)
		data = u32(data, 0)
		hash := sha1.Sum(data)
		log = append(u32(log, ima.Register), hash[:]...)
		log = append(u32(log, len("ima-sig")), "ima-sig"...)
		log = append(u32(log, len(data)), data...)
		ends = append(ends, len(log))
		banks = slices.Clone(banks)
		for b := range banks {
			h := banks[b].Bank.Hash().New()
			h.Write(data)
			banks[b].Extend(ima.Register, h.Sum(nil))
		}
		if len(ends)%gains == 0 {
			g.banks = append(g.banks, banks)
		}
	}
	for n := gains; n <= len(ends); n += gains {
		g.logs = append(g.logs, log[:ends[n-1]:ends[n-1]])
	}
	return g
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

// nodeAge is how often a host shows evidence to all nodes anew, as agents do.
const nodeAge = time.Hour

// meet shows evidence to every node, and stays connected to one of them.
func (h *synthetic) meet(ctx context.Context, contacts map[string]client.Contact, stay string) error {
	for name, to := range contacts {
		api := client.NewHost(client.HostOptions{Dial: h.dial, MaxAge: 2 * nodeAge, Attempt: 30 * time.Second})
		api.Nodes(map[string]client.Contact{name: to})
		if _, err := api.Nonce(ctx); err != nil {
			return err
		}
		if name == stay {
			if h.api != nil {
				h.api.Close()
			}
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
	r, err := h.api.Admit(ctx, &apiv1.AdmitRequest{Host: h.name, Bundle: b, Tick: n.GetTick()})
	h.remember(r.GetReplayed())
	return err
}

// renew answers a nonce that is newer than the one that it answered last; false if there
// is none yet, at this node or for the lease.
func (h *synthetic) renew(ctx context.Context, n *apiv1.NonceResponse) (bool, error) {
	if n.GetTick() <= h.tick {
		return false, nil
	}
	b, err := h.gained(evidence.Binding{Purpose: evidence.PurposeRenewal, Nonce: n.GetNonce(), SubjectKey: h.spki})
	if err != nil {
		return false, err
	}
	r, err := h.api.Renew(ctx, &apiv1.RenewRequest{Host: h.name, Bundle: b, Tick: n.GetTick()})
	if errors.Is(err, keystead.ReasonLogUnknown) || errors.Is(err, keystead.ReasonPairMissing) {
		h.again.Add(1)
		if b, err = h.evidence(n, evidence.PurposeRenewal); err == nil {
			r, err = h.api.Renew(ctx, &apiv1.RenewRequest{Host: h.name, Bundle: b, Tick: n.GetTick()})
		}
	}
	if errors.Is(err, keystead.ReasonRenewalReplayed) { // another node took evidence of that tick: the next one prolongs
		return false, nil
	}
	if err != nil {
		return false, err
	}
	h.remember(r.GetReplayed())
	h.tick = n.GetTick()
	return true, nil
}

// renewed asks for nonces until one is answered by evidence that is accepted, as an agent
// does. What agents ask for every few minutes beside, roster and terms, it does not.
func (h *synthetic) renewed(ctx context.Context) error {
	for {
		n, err := h.api.Nonce(ctx)
		did := false
		if err == nil {
			did, err = h.renew(ctx, n)
		}
		if did || err != nil && (!client.Unavailable(err) || errors.Is(err, keystead.ReasonLeaseExpired)) {
			return err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
