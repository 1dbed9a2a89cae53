package keyring

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"

	"github.com/keystead/keystead"
)

// JudgeEpoch endorses a proposed epoch if this node computes the same record from the
// round's messages, byte by byte, and returns what it writes.
func (g *Ring) JudgeEpoch(st State, at *Standing, subject string, content []byte) ([]Write, error) {
	e, err := ParseEpoch(content)
	if err != nil {
		return nil, err
	}
	if subject != CurrentEpoch {
		return nil, mismatch("subject", CurrentEpoch, subject)
	}
	own, err := g.judge(st, at, e.Round, EpochPurpose(e.Number), e.Older, content)
	if err != nil {
		return nil, err
	}
	return []Write{{EpochType + "/" + CurrentEpoch, own}, {EpochType + "/" + strconv.FormatUint(e.Number, 10), own}}, nil
}

// JudgeKey does so for a version of a key.
func (g *Ring) JudgeKey(st State, at *Standing, subject string, content []byte) ([]Write, error) {
	v, err := ParseVersion(content)
	if err != nil {
		return nil, err
	}
	if subject != v.Name {
		return nil, mismatch("subject", v.Name, subject)
	}
	own, err := g.judge(st, at, v.Round, KeyPurpose(v.Name, v.Number), nil, content)
	if err != nil {
		return nil, err
	}
	return []Write{{KeyType + "/" + v.Name, own}, {versionKey(v.Name, v.Number), own}}, nil
}

func mismatch(where, want, got string) error {
	return deny(keystead.ReasonAgreementMismatch, where, want, got)
}

// judge computes the record of a round afresh and compares it with the proposed one.
func (g *Ring) judge(st State, at *Standing, round RoundID, p Purpose, older, proposed []byte) ([]byte, error) {
	v, err := st.Record(round.OpenKey())
	if err != nil {
		return nil, err
	}
	if v.Version == 0 {
		return nil, mismatch(p.String(), "the opening of its round on the ledger", "none")
	}
	o, err := ParseOpening(v.Data)
	if err != nil {
		return nil, err
	}
	if o.Round != round || o.Purpose != p {
		return nil, mismatch(p.String(), "a round for it", o.Purpose.String())
	}
	if err := g.admissible(st, at, &o); err != nil {
		return nil, err
	}
	if p.IsEpoch() {
		if err := g.sealedHere(&o); err != nil {
			return nil, err
		}
	}
	out, err := g.fresh(st, at, &o, older)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(out.Content, proposed) {
		return nil, mismatch(p.String(), keystead.Sum(out.Content).String()+", which this node computed", keystead.Sum(proposed).String())
	}
	return out.Content, nil
}

// fresh computes the outcome of a round from the ledger alone.
func (g *Ring) fresh(st State, at *Standing, o *Opening, older []byte) (Outcome, error) {
	id := o.ID(g.domain)
	m, err := readMessages(st, o)
	if err == nil {
		err = m.verify(at, o, id, g.domain, nil)
	}
	var out Outcome
	if err == nil {
		out, err = g.conclude(st, at, o, id, m, older)
	}
	var b *blame
	if errors.As(err, &b) {
		err = b.err
	}
	if err == nil && out.Content == nil {
		err = missing(fmt.Sprintf("epoch %d", o.Epoch))
	}
	return out, err
}
