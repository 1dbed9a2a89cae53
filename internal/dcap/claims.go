package dcap

import (
	"encoding/hex"

	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/endorse"
)

// Claims returns what the machine's certificate says, for policies.
func (p *PCK) Claims(kind string, root endorse.Root) evidence.TEEClaims {
	return evidence.TEEClaims{Kind: kind, Machine: hex.EncodeToString(p.PPID), Platform: p.FMSPC, Root: root.Digest.String(),
		TCB: append(p.Components[:len(p.Components):len(p.Components)], p.PCESVN)}
}
