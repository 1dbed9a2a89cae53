package dcap

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/endorse"
)

// statuses are Intel's words for a level, from best to worst.
var statuses = []string{"UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded", "OutOfDate", "OutOfDateConfigurationNeeded", "Revoked"}

// Status is what Intel says of a level.
type Status struct {
	Word       string // of statuses
	Date       string // of the level
	Advisories []string
}

// worse returns the worse of two, with the advisories of both. A word that is not known is
// the worst.
func (s Status) worse(t Status) Status {
	rank := func(w string) int {
		if i := slices.Index(statuses, w); i >= 0 {
			return i
		}
		return len(statuses)
	}
	if rank(t.Word) > rank(s.Word) {
		s.Word, s.Date = t.Word, t.Date
	}
	s.Advisories = slices.Compact(slices.Sorted(slices.Values(slices.Concat(s.Advisories, t.Advisories))))
	return s
}

// component is an entry of sgxtcbcomponents or tdxtcbcomponents.
type component struct {
	SVN int64 `json:"svn"`
}

type tcbLevel struct {
	TCB struct {
		SGX    []component `json:"sgxtcbcomponents"`
		TDX    []component `json:"tdxtcbcomponents"`
		PCESVN int64       `json:"pcesvn"`
		ISVSVN int64       `json:"isvsvn"`
	} `json:"tcb"`
	Date       string   `json:"tcbDate"`
	Status     string   `json:"tcbStatus"`
	Advisories []string `json:"advisoryIDs"`
}

func (l tcbLevel) status() Status { return Status{l.Status, l.Date, l.Advisories} }

// module is tdxModule, or one of tdxModuleIdentities.
type module struct {
	ID             string     `json:"id"`
	MRSigner       string     `json:"mrsigner"`
	Attributes     string     `json:"attributes"`
	AttributesMask string     `json:"attributesMask"`
	Levels         []tcbLevel `json:"tcbLevels"`
}

// tcbInfo is Intel's TCB info, version 3 (PCS API, "Get TCB Info").
type tcbInfo struct {
	dated
	FMSPC   string     `json:"fmspc"`
	PCEID   string     `json:"pceId"`
	Module  *module    `json:"tdxModule"`
	Modules []module   `json:"tdxModuleIdentities"`
	Levels  []tcbLevel `json:"tcbLevels"`
}

// qeIdentity is Intel's enclave identity, version 2 ("Get Quoting Enclave Identity").
type qeIdentity struct {
	dated
	MiscSelect     string     `json:"miscselect"`
	MiscSelectMask string     `json:"miscselectMask"`
	Attributes     string     `json:"attributes"`
	AttributesMask string     `json:"attributesMask"`
	MRSigner       string     `json:"mrsigner"`
	ProductID      int64      `json:"isvprodid"`
	Levels         []tcbLevel `json:"tcbLevels"`
}

// dated is what both open with.
type dated struct {
	ID         string    `json:"id"`
	Version    int       `json:"version"`
	IssueDate  time.Time `json:"issueDate"`
	NextUpdate time.Time `json:"nextUpdate"`
	Number     int64     `json:"tcbEvaluationDataNumber"`
}

// signer is what signs both.
const signer = "Intel SGX TCB Signing"

// openSigned reads a piece of collateral that Intel signed: its member, in the bytes that
// were signed. Refusals are collateral-missing, collateral-invalid, collateral-expired,
// vendor-untrusted and key-revoked.
func (v *verifier) openSigned(kind, name, member, id string, version int, into any, head *dated) error {
	piece, err := v.collateral.Find(kind, name)
	if err != nil {
		return err
	}
	where := kind + " " + name
	invalid := func(want, got string) error {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonCollateralInvalid, Where: where, Want: want, Got: got})
	}
	chain, err := endorse.ParsePEM(where, piece.Chain)
	if err != nil {
		return invalid("its issuers in PEM", err.Error())
	}
	for _, c := range chain {
		if err := v.current(where+", signed by "+c.Subject.CommonName, c.NotBefore, c.NotAfter); err != nil {
			return err
		}
	}
	root, err := endorse.Verify(where, chain, v.roots, v.within(chain))
	if err != nil {
		return err
	}
	if root != v.root || len(chain) != 2 || chain[0].Subject.CommonName != signer {
		return invalid(fmt.Sprintf("a signature by %q, right below the machine's root", signer), fmt.Sprintf("%d certificates, the first of %q, root %v", len(chain), chain[0].Subject, root.Digest))
	}
	var outer map[string]json.RawMessage
	var hexSignature string
	if err := json.Unmarshal(piece.Data, &outer); err != nil {
		return invalid("JSON", err.Error())
	}
	if err := json.Unmarshal(outer["signature"], &hexSignature); err != nil || len(outer) != 2 {
		return invalid("the members "+member+" and signature", fmt.Sprintf("%d members", len(outer)))
	}
	signature, err := hex.DecodeString(hexSignature)
	if err != nil || !verifyP256(chain[0].PublicKey, outer[member], signature) {
		return invalid(fmt.Sprintf("a signature by %q", chain[0].Subject), "one that does not verify")
	}
	if err := json.Unmarshal(outer[member], into); err != nil {
		return invalid("what the vendor's format says", err.Error())
	}
	if !strings.EqualFold(head.ID, id) || head.Version != version {
		return invalid(fmt.Sprintf("%s, version %d", id, version), fmt.Sprintf("%s, version %d", head.ID, head.Version))
	}
	if err := v.current(where, head.IssueDate, head.NextUpdate); err != nil {
		return err
	}
	v.signers = append(v.signers, chain[0])
	return nil
}

// verifyP256 checks a signature of 64 bytes, r and s, over the SHA-256 of message.
func verifyP256(key any, message, signature []byte) bool {
	k, ok := key.(*ecdsa.PublicKey)
	if !ok || k.Curve.Params().BitSize != 256 || len(signature) != 64 {
		return false
	}
	digest := sha256.Sum256(message)
	return ecdsa.Verify(k, digest[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:]))
}

// level returns the first level that the machine reaches: SGX components and PCESVN of
// its certificate, and for TDX the TD report's components. svn is nil for SGX.
func (t *tcbInfo) level(p *PCK, svn []byte) (tcbLevel, bool) {
	reaches := func(have int64, want []component, i int) bool { return i < len(want) && have >= want[i].SVN }
	for _, l := range t.Levels {
		ok := p.PCESVN >= l.TCB.PCESVN
		for i, have := range p.Components {
			ok = ok && reaches(have, l.TCB.SGX, i)
		}
		first := 0
		if len(svn) > 1 && svn[1] > 0 {
			first = 2 // a module of its own version is judged by its identity's levels
		}
		for i := first; i < len(svn); i++ {
			ok = ok && reaches(int64(svn[i]), l.TCB.TDX, i)
		}
		if ok {
			return l, true
		}
	}
	return tcbLevel{}, false
}

// masked reports whether value under mask is want, all in hex but the value.
func masked(value []byte, want, mask string) bool {
	w, err1 := hex.DecodeString(want)
	m, err2 := hex.DecodeString(mask)
	if err1 != nil || err2 != nil || len(w) != len(value) || len(m) != len(value) {
		return false
	}
	for i := range value {
		if value[i]&m[i] != w[i]&m[i] {
			return false
		}
	}
	return true
}

func isHex(want string, value []byte) bool { return strings.EqualFold(want, hex.EncodeToString(value)) }
