package keyring

import (
	"errors"
	"fmt"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
)

// blame is an error that one node is at fault for.
type blame struct {
	node string
	err  error
}

func (b *blame) Error() string { return b.node + ": " + b.err.Error() }
func (b *blame) Unwrap() error { return b.err }

// messages are the commits and reveals of a round, by node, with the versions of
// their records.
type messages struct {
	commits map[string]commit
	reveals map[string]reveal
	at      map[string][2]uint64 // versions of commit and reveal
}

// readMessages reads the messages of the contributors. One that does not parse, or
// stands in another node's place, is the fault of the node in whose place it stands.
func readMessages(st State, o *Opening) (messages, error) {
	m := messages{map[string]commit{}, map[string]reveal{}, map[string][2]uint64{}}
	for i := range o.Nodes {
		node := o.Nodes[i].Node
		c, err := st.Record(o.Round.CommitKey(node))
		if err != nil {
			return m, err
		}
		r, err := st.Record(o.Round.RevealKey(node))
		if err != nil {
			return m, err
		}
		m.at[node] = [2]uint64{c.Version, r.Version}
		if c.Version > 0 {
			x, err := parseCommit(c.Data)
			if err != nil {
				return m, &blame{node, err}
			}
			m.commits[node] = x
		}
		if r.Version > 0 {
			x, err := parseReveal(r.Data)
			if err != nil {
				return m, &blame{node, err}
			}
			m.reveals[node] = x
		}
	}
	return m, nil
}

// signatures remembers which messages were checked, for a round that is looked at often;
// nil remembers nothing.
type signatures map[key.NodeSignature]keystead.Digest

// check verifies a node's signature over a message, once.
func (s signatures) check(k key.NodePublic, message []byte, by key.NodeSignature, what, node string) error {
	sum := keystead.Sum(append(k[:], message...))
	if known, ok := s[by]; ok && known == sum {
		return nil
	}
	err := verify(k, message, by, what, node)
	if err == nil && s != nil {
		s[by] = sum
	}
	return err
}

// verify checks that each message is of this round, of the node in whose place it
// stands, and signed by it.
func (m messages) verify(at *Standing, o *Opening, id, domain keystead.Digest, known signatures) error {
	for i := range o.Nodes {
		node := o.Nodes[i].Node
		n, in := at.Node(node)
		if !in {
			return &blame{node, deny(keystead.ReasonNotMember, o.Purpose.String(), "nodes of the roster", node)}
		}
		if c, there := m.commits[node]; there {
			err := belongs("commit", node, id, c.node, c.round)
			if err == nil {
				err = known.check(n.Key, append(label("round-commit", domain), c.body()...), c.signature, "commit", node)
			}
			if err != nil {
				return &blame{node, err}
			}
		}
		if r, there := m.reveals[node]; there {
			err := belongs("reveal", node, id, r.node, r.round)
			if err == nil {
				err = known.check(n.Key, append(label("round-reveal", domain), r.body()...), r.signature, "reveal", node)
			}
			if err != nil {
				return &blame{node, err}
			}
		}
	}
	return nil
}

func belongs(what, node string, id keystead.Digest, gotNode string, gotID keystead.Digest) error {
	if gotNode != node || gotID != id {
		return deny(keystead.ReasonRoundForeign, what+" of "+node, fmt.Sprintf("one by %s for the opening %s", node, id), fmt.Sprintf("by %s for %s", gotNode, gotID))
	}
	return nil
}

func (m messages) anyReveal(o *Opening) string {
	for i := range o.Nodes {
		if _, there := m.reveals[o.Nodes[i].Node]; there {
			return o.Nodes[i].Node
		}
	}
	return ""
}

// ordered checks by the versions of the records that all commitments were on the ledger
// before any reveal.
func (m messages) ordered(o *Opening) error {
	var first uint64
	var revealer string
	for i := range o.Nodes {
		node := o.Nodes[i].Node
		if v := m.at[node][1]; v > 0 && (first == 0 || v < first) {
			first, revealer = v, node
		}
	}
	for i := range o.Nodes {
		node := o.Nodes[i].Node
		if v := m.at[node][0]; first > 0 && v >= first {
			return &blame{node, deny(keystead.ReasonCommitLate, o.Purpose.String(), fmt.Sprintf("the commitment of %s before version %d, the first reveal, by %s", node, first, revealer), fmt.Sprintf("version %d", v))}
		}
	}
	return nil
}

// combine opens all contributions, holds each to its commitment, and derives the
// secret. The messages are all there.
func (g *Ring) combine(o *Opening, id keystead.Digest, m messages) (Secret, error) {
	place := o.contributor(g.node)
	if place < 0 {
		return Secret{}, deny(keystead.ReasonSecretMissing, o.Purpose.String(), "contributions sealed to "+g.node, "none")
	}
	return g.gather(o, id, m, len(o.Nodes), func(r *reveal, from string, c keystead.Digest) ([]byte, error) {
		return g.wrapping.open(about("contribution-seal", id, from, g.node, c), r.sealed[place])
	})
}

// combineKey does so for a key, whose contributions are under the epoch secret.
func (g *Ring) combineKey(under Secret, o *Opening, id keystead.Digest, m messages) (Secret, error) {
	return g.gather(o, id, m, 1, func(r *reveal, from string, c keystead.Digest) ([]byte, error) {
		return under.open(about("contribution-wrap", id, from, "", c), r.sealed[0], "contribution of "+from)
	})
}

func (g *Ring) gather(o *Opening, id keystead.Digest, m messages, seals int, open func(r *reveal, from string, c keystead.Digest) ([]byte, error)) (Secret, error) {
	if missing := absent(o, m.reveals); missing != nil || absent(o, m.commits) != nil {
		return Secret{}, deny(keystead.ReasonRoundUnfit, o.Purpose.String(), "the messages of all contributors", fmt.Sprintf("without %v", missing))
	}
	var all [][]byte
	for i := range o.Nodes {
		from := o.Nodes[i].Node
		r, c := m.reveals[from], m.commits[from].commitment
		if len(r.sealed) != seals {
			return Secret{}, &blame{from, deny(keystead.ReasonSealUnopened, "contribution of "+from, fmt.Sprintf("%d seals", seals), fmt.Sprint(len(r.sealed)))}
		}
		plain, err := open(&r, from, c)
		switch {
		case errors.Is(err, keystead.ReasonSecretMissing):
			return Secret{}, err
		case err != nil:
			return Secret{}, &blame{from, deny(keystead.ReasonSealUnopened, "contribution of "+from, "a seal that opens for "+g.node, "another")}
		case len(plain) != SecretSize || commitment(id, from, plain) != c:
			return Secret{}, &blame{from, deny(keystead.ReasonCommitBroken, "contribution of "+from, "the bytes committed to", "others")}
		}
		all = append(all, plain)
	}
	return derive(id, o.Purpose, all)
}

// conclude computes what the round came to. Older is the wrapped secret of the epoch
// before as somebody proposes it, for a node that does not have that secret; nil to
// wrap it here.
func (g *Ring) conclude(st State, at *Standing, o *Opening, id keystead.Digest, m messages, older []byte) (Outcome, error) {
	if err := m.ordered(o); err != nil {
		return Outcome{}, err
	}
	if !o.Purpose.IsEpoch() {
		return g.concludeKey(st, o, id, m)
	}
	s, err := g.combine(o, id, m)
	if err != nil {
		return Outcome{}, err
	}
	now, err := Current(st)
	if err != nil {
		return Outcome{}, err
	}
	next := now.follows(o, id, &at.Roster)
	if next.Confirm, err = s.confirm(g.domain, o.Purpose); err != nil {
		return Outcome{}, err
	}
	g.agree(next.Confirm, s)
	if next.Older, err = g.older(st, s, &now, o.Purpose.Number, older); errors.Is(err, keystead.ReasonSecretMissing) {
		return Outcome{Purpose: o.Purpose}, nil
	}
	if err != nil {
		return Outcome{}, err
	}
	return Outcome{o.Purpose, next.Bytes()}, nil
}

// older returns the secret of the epoch before, wrapped under s. What another node
// proposes is held to that epoch's confirmation.
func (g *Ring) older(st State, s Secret, before *Epoch, number uint64, proposed []byte) ([]byte, error) {
	if before.Number == 0 {
		return nil, nil
	}
	p := EpochPurpose(before.Number)
	if proposed == nil {
		inner, err := g.epochSecret(st, before.Number)
		if err != nil {
			return nil, err
		}
		return s.wrap(g.domain, number, p, inner)
	}
	inner, err := s.unwrap(g.domain, number, p, before.Confirm, proposed)
	if err != nil {
		return nil, err
	}
	return s.wrap(g.domain, number, p, inner)
}

func (g *Ring) concludeKey(st State, o *Opening, id keystead.Digest, m messages) (Outcome, error) {
	under, err := g.epochSecret(st, o.Epoch)
	if err != nil {
		return Outcome{}, err
	}
	s, err := g.combineKey(under, o, id, m)
	if err != nil {
		return Outcome{}, err
	}
	v := Version{Name: o.Purpose.Key, Number: o.Purpose.Number, Epoch: o.Epoch, Round: o.Round, Opening: id}
	if v.Confirm, err = s.confirm(g.domain, o.Purpose); err != nil {
		return Outcome{}, err
	}
	if v.Wrapped, err = under.wrap(g.domain, o.Epoch, o.Purpose, s); err != nil {
		return Outcome{}, err
	}
	spec, err := SpecOf(st, o.Purpose.Key)
	if err != nil {
		return Outcome{}, err
	}
	if _, v.Public, err = s.halves(g.domain, o.Purpose, spec.Algorithm()); err != nil {
		return Outcome{}, err
	}
	return Outcome{o.Purpose, v.Bytes()}, nil
}

// agree remembers the secret of an epoch until one takes effect.
func (g *Ring) agree(confirm keystead.Digest, s Secret) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.agreed) >= maxAgreed {
		clear(g.agreed)
	}
	g.agreed[confirm] = s
}
