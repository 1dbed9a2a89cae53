package admit

import (
	"encoding/hex"
	"errors"
	"slices"
	"strconv"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/receipt"
)

// MaxReadingAhead is how far ahead of the domain clock a reading's deadline may be, in
// milliseconds: a day, for several members to sign.
const MaxReadingAhead = 86_400_000

// Reading asks a node for the archived evidence of one admission. Each serves once, in
// the whole domain: its text is kept on the ledger.
type Reading struct {
	Domain      keystead.Digest
	Transaction keystead.Digest // of the admission
	Nonce       [16]byte        // random
	Until       uint64          // Unix milliseconds of the domain clock
	Because     string          // for people, one line
}

func (x *Reading) statement() Statement {
	return Statement{key.KindReading, x.Domain, x.Transaction.String(), 0,
		[]Field{{"nonce", hex.EncodeToString(x.Nonce[:])}, {"until", strconv.FormatUint(x.Until, 10)}, {"because", x.Because}}}
}

func readReading(s Statement) (Reading, error) {
	r := s.reader()
	x := Reading{Domain: s.Domain}
	d, err := keystead.ParseDigest(s.Subject)
	if err != nil || d.IsZero() {
		r.fail("subject", "%.80q is not a transaction id", s.Subject)
	}
	x.Transaction = d
	if s.Base != 0 {
		r.fail("base", "is %d, not 0", s.Base)
	}
	nonce := r.value("nonce")
	b, err := hex.DecodeString(nonce)
	if err != nil || len(b) != len(x.Nonce) || hex.EncodeToString(b) != nonce {
		r.fail("nonce", "%.40q is not %d bytes in lower-case hex", nonce, len(x.Nonce))
	}
	copy(x.Nonce[:], b)
	x.Until, x.Because = r.number("until"), r.value("because")
	if len(x.Because) > maxBecause {
		r.fail("because", "is %d bytes long, at most %d are accepted", len(x.Because), maxBecause)
	}
	return x, r.end()
}

// Text returns the text that members sign.
func (x *Reading) Text() ([]byte, error) { return checked(x.statement(), readReading) }

// ParseReading reads the text.
func ParseReading(text []byte) (Reading, error) { return parsed(key.KindReading, text, readReading) }

// OpenReading returns the reading that members signed, of whom the domain names as many
// as its setting archive-readers wants, for one admission, in time. Roster is the one in
// force. That it did not serve before is for the ledger to say. Refusals: those of
// Case.Open; reader-unnamed, request-expired.
func OpenReading(s State, domain, transaction keystead.Digest, roster *receipt.Roster, signed []byte) (Reading, error) {
	named, err := ReadersOf(s)
	if err != nil {
		return Reading{}, err
	}
	by := &receipt.Roster{Threshold: named.Need}
	for _, m := range roster.Members {
		if slices.Contains(named.Names, m.Name()) {
			by.Members = append(by.Members, m)
		}
	}
	c := Case{Domain: domain, Subject: transaction.String(), Roster: by}
	x, err := opened(c, key.KindReading, signed, readReading)
	if errors.Is(err, keystead.ReasonNoteUnsigned) || len(by.Members) == 0 {
		c.Roster = &receipt.Roster{Members: roster.Members, Threshold: 1}
		if _, other := c.Open(key.KindReading, signed); other == nil {
			err = deny(keystead.ReasonReaderUnnamed, "archive", named.String(), "signatures of other members")
		}
	}
	if err != nil {
		return Reading{}, err
	}
	clock, err := s.Clock()
	if err == nil && (clock >= x.Until || x.Until > clock+MaxReadingAhead) {
		err = deny(keystead.ReasonRequestExpired, "reading", "a deadline after "+at(clock)+", a day ahead at most", at(x.Until))
	}
	return x, err
}
