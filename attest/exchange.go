package attest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
)

// exchange is the attestation of one finished TLS connection. Both sides do the same
// at the same time; each waits only for what the other sends before it waits itself,
// so they meet whatever the stream buffers.
type exchange struct {
	cfg     *Config
	channel *channel
	in      io.Reader
	out     *sender
	said    bool   // this side has sent its verdict
	broken  bool   // the stream from the peer has failed
	leave   func() // gives back the room for the peer's evidence; nil if it has none
}

// room asks for memory for the peer's evidence.
func (x *exchange) room(k kind, size int) (err error) {
	if k == kindEvidence && x.cfg.Room != nil {
		x.leave, err = x.cfg.Room(x.channel.peer.key, size)
	}
	return err
}

// run sends and reads hello, challenge, evidence and verdict, in this order. Peer is
// who the other side is, for the evidence that was asked for at that time.
func (x *exchange) run(ctx context.Context) (peer Peer, asked time.Time, err error) {
	defer func() {
		if x.leave != nil {
			x.leave()
		}
	}()
	asked = time.Now() // before the nonce goes out: no evidence for it is older
	own, err := x.introduce(ctx)
	if err != nil {
		return Peer{}, asked, err
	}
	claim, err := x.challenge(ctx, own)
	if err != nil {
		return Peer{}, asked, err
	}
	name, verdict, err := x.cfg.Verifier.Verify(ctx, claim)
	if err != nil {
		return Peer{}, asked, err
	}
	if peer, err = mint(name, verdict, claim); err != nil {
		return Peer{}, asked, err
	}
	x.said = true
	x.out.send(acceptance())
	if _, err := x.read(kindVerdict); err != nil {
		return Peer{}, asked, err
	}
	return peer, asked, nil
}

// introduce makes this side's hello.
func (x *exchange) introduce(ctx context.Context) (h hello, err error) {
	if h.keys, err = x.cfg.Prover.Introduce(ctx); err != nil {
		return h, fmt.Errorf("attest: own keys: %w", err)
	}
	if err := fits(h.keys); err != nil {
		return h, err
	}
	_, _ = rand.Read(h.nonce[:]) // never fails
	x.out.send(h.frame())
	return h, nil
}

// challenge takes the peer's hello, asks what the verifier asks, and answers with
// this side's evidence. It returns what is known of the peer so far.
func (x *exchange) challenge(ctx context.Context, own hello) (claim Claim, err error) {
	payload, err := x.read(kindHello)
	if err != nil {
		return claim, err
	}
	peer, err := parseHello(payload)
	if err != nil {
		return claim, err
	}
	claim = Claim{Keys: peer.keys, Expect: x.channel.theirs(own.nonce)}
	if tee := &claim.Keys.TEE; !tee.IsZero() { // and its key is the one that TLS showed
		tee.Key = keystead.Sum(claim.Expect.SubjectKey)
	}
	if claim.Activation, err = x.cfg.Verifier.Challenge(ctx, claim.Keys); err != nil {
		return claim, err
	}
	var asked evidence.Credential
	if claim.Activation != nil {
		asked = claim.Activation.Credential
	}
	x.out.send(challengeFrame(asked))
	if payload, err = x.read(kindChallenge); err != nil {
		return claim, err
	}
	credential, err := parseChallenge(payload)
	if err != nil {
		return claim, err
	}
	binding := x.channel.ours(peer.nonce)
	bundle, answer, err := x.cfg.Prover.Prove(ctx, binding, credential)
	if err != nil {
		return claim, fmt.Errorf("attest: own evidence: %w", err)
	}
	if len(answer) > maxAnswer {
		return claim, malformed(0, "answer", "is %d bytes long, at most %d fit", len(answer), maxAnswer)
	}
	x.out.send(evidenceFrame(answer, bundle))
	return claim, x.evidence(&claim, binding)
}

// evidence takes the peer's evidence and tells what it is of, by its own words, from
// what it should be of: a better answer than that the quote does not fit. Ours is the
// binding of this side's evidence.
func (x *exchange) evidence(claim *Claim, ours evidence.Binding) error {
	payload, err := x.read(kindEvidence)
	if err != nil {
		return err
	}
	if claim.Answer, claim.Bundle, err = parseEvidence(payload); err != nil {
		return err
	}
	stated := claim.Bundle.Parts().Binding
	f := keystead.Finding{Where: "evidence", Want: fmt.Sprintf("the binding of this connection and role, nonce %x", claim.Expect.Nonce),
		Got: fmt.Sprintf("nonce %x for purpose %.40q", stated.Nonce, stated.Purpose)}
	switch {
	case same(stated, claim.Expect):
		return nil
	case stated.Purpose != evidence.PurposeConnection:
		f.Reason = keystead.ReasonPurposeMismatch
	case same(stated, ours):
		f.Reason = keystead.ReasonEvidenceReflected
	default:
		f.Reason = keystead.ReasonEvidenceRelayed
	}
	return keystead.Deny(f)
}

func same(a, b evidence.Binding) bool {
	return a.Purpose == b.Purpose && bytes.Equal(a.Nonce, b.Nonce) && bytes.Equal(a.SubjectKey, b.SubjectKey)
}

// read returns the next frame's payload, which is nil for a verdict that says yes. A
// verdict that says no is a *RefusedError, whenever it comes; one that says yes comes
// at its time only.
func (x *exchange) read(want kind) ([]byte, error) {
	k, payload, err := readFrame(x.in, want, x.cfg.MaxBundle, x.room)
	if err != nil {
		var bad *keystead.FormatError
		var no *keystead.DenyError
		x.broken = !errors.As(err, &bad) && !errors.As(err, &no)
		return nil, err
	}
	if k != kindVerdict {
		return payload, nil
	}
	no, err := parseVerdict(payload)
	switch {
	case err != nil:
		return nil, err
	case no != nil:
		return nil, no
	case want != kindVerdict:
		return nil, malformed(1, "kind", "is a verdict that says yes, want %v", want)
	}
	return nil, nil
}

// sender writes frames in their order while the exchange goes on. A failed write
// ends the stream, and the other side's silence is then what the exchange sees.
type sender struct {
	queue chan []byte
	done  chan error
}

// frames is how many frames a side sends at most: four, and a refusal.
const frames = 5

func newSender(w io.Writer) *sender {
	s := &sender{make(chan []byte, frames), make(chan error, 1)}
	go func() {
		var failed error
		for f := range s.queue {
			if failed == nil {
				_, failed = w.Write(f)
			}
		}
		s.done <- failed
	}()
	return s
}

// send never waits.
func (s *sender) send(frame []byte) { s.queue <- frame }

// flush ends the sender, and waits until all is written or writing failed.
func (s *sender) flush() error {
	close(s.queue)
	return <-s.done
}
