package keyring

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/keystead/keystead"
)

// Action is what a round asks for next.
type Action int

// The actions. The zero value asks for nothing.
const (
	Wait    Action = iota // for those in Step.Missing
	Commit                // write Step.Write
	Reveal                // write Step.Write
	Propose               // propose Step.Outcome, or endorse it
	Failed                // Step.Err says why, Step.Blame who
	Over                  // the records are gone
)

func (a Action) String() string {
	return [...]string{"wait", "commit", "reveal", "propose", "failed", "over"}[a]
}

// Step is what a round asks of its node.
type Step struct {
	Do      Action
	Write   Write    // for Commit and Reveal
	Missing []string // for Wait: nodes whose message is due, of one kind
	Outcome Outcome  // for Propose
	Blame   string   // for Failed: the node at fault, "" if none is
	Err     error    // for Failed
}

// Outcome is what a round came to.
type Outcome struct {
	Purpose Purpose
	Content []byte // of the proposal: the record; nil if this node can not make it, for it lacks the secret before
}

// Round is one round as a node sees it. It is not safe for concurrent use.
type Round struct {
	ring         *Ring
	opening      Opening
	id           keystead.Digest
	contribution []byte                     // nil when this node does not contribute
	seen         map[string]keystead.Digest // first commitment, by node
	known        signatures
}

// Join checks an opening on the ledger against the state, and takes part: it draws this
// node's contribution from random. It refuses what does not fit the state
// (round-unfit), a node that is not in the roster (not-member), a stranger's signature,
// and a wrapping key of this node that is not its own (round-foreign).
func (g *Ring) Join(st State, at *Standing, opening []byte, random io.Reader) (*Round, error) {
	o, err := ParseOpening(opening)
	if err != nil {
		return nil, err
	}
	if err := g.admissible(st, at, &o); err != nil {
		return nil, err
	}
	if err := g.sealedHere(&o); err != nil {
		return nil, err
	}
	r := &Round{ring: g, opening: o, id: o.ID(g.domain), seen: map[string]keystead.Digest{}, known: signatures{}}
	if o.contributor(g.node) < 0 {
		return r, nil
	}
	if !o.Purpose.IsEpoch() {
		if _, err := g.epochSecret(st, o.Epoch); err != nil {
			return nil, err
		}
	}
	r.contribution = make([]byte, SecretSize)
	if _, err := io.ReadFull(random, r.contribution); err != nil {
		return nil, fmt.Errorf("keyring: randomness for a contribution: %w", err)
	}
	return r, nil
}

// admissible checks an opening's signatures and that the state asks for it.
func (g *Ring) admissible(st State, at *Standing, o *Opening) error {
	proposer, in := at.Node(o.Proposer)
	if !in {
		return deny(keystead.ReasonSignerUnknown, "opening", "a node of the roster", o.Proposer)
	}
	if err := o.Verify(proposer.Key, g.domain); err != nil {
		return err
	}
	if err := fits(st, at, o); err != nil {
		return err
	}
	for i := range o.Nodes {
		a := &o.Nodes[i]
		n, _ := at.Node(a.Node) // fits has found it
		if err := a.Verify(n.Key, g.domain); err != nil {
			return err
		}
	}
	return nil
}

// sealedHere refuses an opening that names this node with a wrapping key of another
// start.
func (g *Ring) sealedHere(o *Opening) error {
	if i := o.contributor(g.node); i >= 0 && !bytes.Equal(o.Nodes[i].Wrapping, g.wrapping.public()) {
		return deny(keystead.ReasonRoundForeign, "wrapping key of "+g.node, "the one of this start", "another")
	}
	return nil
}

// Purpose returns what the round is for.
func (r *Round) Purpose() Purpose { return r.opening.Purpose }

// Proposer returns who opened it.
func (r *Round) Proposer() string { return r.opening.Proposer }

// Next returns what this node does next, given what is on the ledger.
func (r *Round) Next(st State, at *Standing) (Step, error) {
	v, err := st.Record(r.opening.Round.OpenKey())
	switch {
	case err != nil:
		return Step{}, err
	case v.Version == 0:
		return Step{Do: Over}, nil
	case !bytes.Equal(v.Data, r.opening.Bytes()):
		return failed(r.opening.Proposer, deny(keystead.ReasonRoundForeign, "opening", "the one that this node joined", "another in its place")), nil
	case at.Sequence != r.opening.Roster:
		return failed("", deny(keystead.ReasonRoundUnfit, r.opening.Purpose.String(), fmt.Sprintf("roster %d", at.Sequence), fmt.Sprintf("roster %d", r.opening.Roster))), nil
	}
	if over, err := r.over(st); err != nil || over {
		return Step{Do: Over}, err
	}
	m, err := readMessages(st, &r.opening)
	var step Step
	if err == nil {
		step, err = r.step(st, at, m)
	}
	var b *blame
	if errors.As(err, &b) {
		return failed(b.node, b.err), nil
	}
	return step, err
}

// over reports whether the state has moved on: what the round is for is there, or its
// epoch is not the one of now.
func (r *Round) over(st State) (bool, error) {
	now, err := Current(st)
	if err != nil || now.Number != r.opening.Epoch || r.opening.Purpose.IsEpoch() {
		return now.Number != r.opening.Epoch, err
	}
	newest, err := Newest(st, r.opening.Purpose.Key)
	return newest.Number >= r.opening.Purpose.Number, err
}

func failed(who string, err error) Step { return Step{Do: Failed, Blame: who, Err: err} }

// step goes through the phases in order.
func (r *Round) step(st State, at *Standing, m messages) (Step, error) {
	if err := m.verify(at, &r.opening, r.id, r.ring.domain, r.known); err != nil {
		return Step{}, err
	}
	if err := r.compare(m); err != nil {
		return Step{}, err
	}
	own, missing := r.ring.node, absent(&r.opening, m.commits)
	if early := m.anyReveal(&r.opening); early != "" && missing != nil {
		return Step{}, &blame{early, deny(keystead.ReasonRevealEarly, r.opening.Purpose.String(), "all commitments on the ledger before", fmt.Sprintf("a reveal by %s without that of %v", early, missing))}
	}
	if slices.Contains(missing, own) {
		return Step{Do: Commit, Write: Write{r.opening.Round.CommitKey(own), r.commit()}}, nil
	}
	if missing != nil {
		return r.wait(st, at, missing)
	}
	if err := m.ordered(&r.opening); err != nil {
		return Step{}, err
	}
	missing = absent(&r.opening, m.reveals)
	if slices.Contains(missing, own) {
		b, err := r.reveal(st)
		return Step{Do: Reveal, Write: Write{r.opening.Round.RevealKey(own), b}}, err
	}
	if missing != nil {
		return r.wait(st, at, missing)
	}
	out, err := r.ring.conclude(st, at, &r.opening, r.id, m, nil)
	if errors.Is(err, keystead.ReasonSecretMissing) {
		return Step{Do: Propose, Outcome: Outcome{Purpose: r.opening.Purpose}}, nil
	}
	return Step{Do: Propose, Outcome: out}, err
}

// wait is for nodes whose message is due. One that has another wrapping key by now was
// started again, and will not send it.
func (r *Round) wait(st State, at *Standing, missing []string) (Step, error) {
	said, err := r.ring.announcements(st, at)
	if err != nil {
		return Step{}, err
	}
	for _, node := range missing {
		then := r.opening.Nodes[r.opening.contributor(node)]
		if now, there := said[node]; there && !bytes.Equal(now.Wrapping, then.Wrapping) {
			return Step{}, &blame{node, deny(keystead.ReasonContributionLost, r.opening.Purpose.String(), node+" as it was when the round began", "one that was started again")}
		}
	}
	return Step{Do: Wait, Missing: missing}, nil
}

// compare refuses commitments that changed while this node watched, its own among them:
// after a restart it does not have the contribution that it committed to.
func (r *Round) compare(m messages) error {
	for i := range r.opening.Nodes {
		node := r.opening.Nodes[i].Node
		c, there := m.commits[node]
		if !there {
			continue
		}
		if node == r.ring.node && r.contribution != nil && c.commitment != commitment(r.id, node, r.contribution) {
			return &blame{node, deny(keystead.ReasonContributionLost, r.opening.Purpose.String(), "the commitment of this start of "+node, "another")}
		}
		if first, known := r.seen[node]; known && first != c.commitment {
			return &blame{node, deny(keystead.ReasonCommitChanged, r.opening.Purpose.String(), "one commitment by "+node, "another after it")}
		}
		r.seen[node] = c.commitment
	}
	return nil
}

func (r *Round) commit() []byte {
	m := commit{round: r.id, node: r.ring.node, commitment: commitment(r.id, r.ring.node, r.contribution)}
	m.signature = r.ring.signer.Sign(append(label("round-commit", r.ring.domain), m.body()...))
	return m.bytes()
}

func (r *Round) reveal(st State) ([]byte, error) {
	return r.revealAs(st, commitment(r.id, r.ring.node, r.contribution))
}

// revealAs encrypts this node's contribution as the one of commitment c.
func (r *Round) revealAs(st State, c keystead.Digest) ([]byte, error) {
	own := r.ring.node
	m := reveal{round: r.id, node: own}
	if r.opening.Purpose.IsEpoch() {
		for i := range r.opening.Nodes {
			to := &r.opening.Nodes[i]
			s, err := sealTo(to.Wrapping, about("contribution-seal", r.id, own, to.Node, c), r.contribution)
			if err != nil {
				return nil, err
			}
			m.sealed = append(m.sealed, s)
		}
	} else {
		under, err := r.ring.epochSecret(st, r.opening.Epoch)
		if err != nil {
			return nil, err
		}
		s, err := under.seal(about("contribution-wrap", r.id, own, "", c), r.contribution)
		if err != nil {
			return nil, err
		}
		m.sealed = [][]byte{s}
	}
	m.signature = r.ring.signer.Sign(append(label("round-reveal", r.ring.domain), m.body()...))
	return m.bytes(), nil
}

// absent returns the contributors without a message.
func absent[T any](o *Opening, have map[string]T) (out []string) {
	for i := range o.Nodes {
		if _, there := have[o.Nodes[i].Node]; !there {
			out = append(out, o.Nodes[i].Node)
		}
	}
	return out
}
