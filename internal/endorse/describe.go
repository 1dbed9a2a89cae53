package endorse

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
)

// A Description says what a piece of collateral is, for people. Nothing of it is verified.
type Description struct {
	From, Till time.Time
	Text       string          // who signed it, and what it says of itself
	Root       keystead.Digest // of the last certificate, if it has some
}

// Describe reads a piece. It fails for one that does not parse.
func Describe(p evidence.Piece) (d Description, err error) {
	switch {
	case strings.HasSuffix(p.Kind, "-crl"):
		return describeList(p.Data)
	case strings.HasPrefix(p.Kind, "intel-"):
		return describeSigned(p)
	case p.Kind == evidence.CollateralAMDKey:
		certs, err := ParseDER(p.Name, [][]byte{p.Data})
		if err != nil {
			return d, err
		}
		return describeChain(certs), nil
	}
	certs, err := ParsePEM(p.Name, p.Data)
	if err != nil {
		return d, err
	}
	return describeChain(certs), nil
}

// describeChain is valid as long as all of its certificates are.
func describeChain(certs []*x509.Certificate) (d Description) {
	var names []string
	for _, c := range certs {
		if d.From.IsZero() || c.NotBefore.After(d.From) {
			d.From = c.NotBefore
		}
		if d.Till.IsZero() || c.NotAfter.Before(d.Till) {
			d.Till = c.NotAfter
		}
		names, d.Root = append(names, c.Subject.CommonName), keystead.Sum(c.Raw)
	}
	d.Text = strings.Join(names, ", ")
	return d
}

func describeList(b []byte) (d Description, err error) {
	if block, _ := pem.Decode(b); block != nil {
		b = block.Bytes
	}
	l, err := x509.ParseRevocationList(b)
	if err != nil {
		return d, err
	}
	return Description{From: l.ThisUpdate, Till: l.NextUpdate, Text: fmt.Sprintf("%d revoked by %s", len(l.RevokedCertificateEntries), l.Issuer.CommonName)}, nil
}

func describeSigned(p evidence.Piece) (d Description, err error) {
	type body struct {
		ID                      string
		IssueDate, NextUpdate   time.Time
		TCBEvaluationDataNumber int
		TCBLevels               []json.RawMessage
	}
	var outer struct{ TCBInfo, EnclaveIdentity *body }
	if err := json.Unmarshal(p.Data, &outer); err != nil {
		return d, err
	}
	b := outer.TCBInfo
	if b == nil {
		b = outer.EnclaveIdentity
	}
	if b == nil {
		return d, fmt.Errorf("has neither tcbInfo nor enclaveIdentity")
	}
	certs, err := ParsePEM(p.Name, p.Chain)
	if err != nil {
		return d, err
	}
	d = describeChain(certs)
	d.From, d.Till = b.IssueDate, b.NextUpdate
	d.Text = fmt.Sprintf("%s, %d levels, number %d, by %s", b.ID, len(b.TCBLevels), b.TCBEvaluationDataNumber, d.Text)
	return d, nil
}
