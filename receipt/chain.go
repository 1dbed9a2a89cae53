package receipt

import (
	"encoding/binary"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/cursor"
)

// VerifyChain checks the genesis entry of a domain and the roster entries after it, in their
// order, and returns the rosters that were in force, the founding one first. A chain proves itself:
// who hands it over is not believed for it, but may have left out its end.
func VerifyChain(chain [][]byte, domain keystead.Digest) (g Genesis, rosters []Roster, err error) {
	var first []byte
	if len(chain) > 0 {
		first = chain[0]
	}
	if g, err = VerifyGenesis(first, domain); err != nil {
		return g, nil, err
	}
	rosters = []Roster{g.Roster}
	for i := 1; i < len(chain); i++ {
		c, err := g.VerifyChange(chain[i], domain, uint64(i), keystead.Sum(chain[i-1]), &rosters[i-1])
		if err != nil {
			return g, nil, err
		}
		rosters = append(rosters, c.Roster)
	}
	return g, rosters, nil
}

// EncodeChain is a chain as it goes with a node's state (docs/spec/state.md).
func EncodeChain(chain [][]byte) (b []byte) {
	for _, entry := range chain {
		b = cursor.AppendSized32(b, entry)
	}
	return b
}

// ParseChain reads what EncodeChain wrote. The entries are parts of raw.
func ParseChain(raw []byte) (chain [][]byte, err error) {
	c := cursor.New("roster chain", binary.BigEndian, raw)
	for c.Len() > 0 && c.Err() == nil {
		chain = append(chain, c.Sized32(MaxEntry, "entry"))
	}
	return chain, c.Err()
}
