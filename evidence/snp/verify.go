package snp

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/endorse"
)

// A Verified report is one whose signature leads to a pinned root of AMD.
type Verified struct {
	*Report
	Product Product
	Root    endorse.Root

	chain      []*x509.Certificate // leaf, ASK or ASVK, ARK
	collateral string              // name of the chain
}

// Verify checks a report: that a key of this chip, at the level that the report states,
// signed it, and that AMD certified the key. Certificates are the leaf's, as the machine
// sent them (DER); without any the leaf is looked for in the collateral. Refusals are
// tee-unsuitable, collateral-missing, vendor-untrusted, machine-mismatch and
// signature-invalid.
func Verify(raw []byte, certificates [][]byte, roots evidence.VendorRoots, collateral *evidence.Collateral, at time.Time) (*Verified, error) {
	r, err := Parse(raw)
	if err != nil {
		return nil, err
	}
	if err := r.suitable(); err != nil {
		return nil, err
	}
	leaf, err := r.leaf(certificates, collateral)
	if err != nil {
		return nil, err
	}
	cert, err := readCertificate(leaf)
	if err != nil {
		return nil, &keystead.FormatError{Format: "snp-certificate", Field: "extensions", Problem: err.Error()}
	}
	v := &Verified{Report: r, Product: cert.product, collateral: r.KeyName() + "/" + string(cert.product)}
	piece, err := collateral.Find(evidence.CollateralAMDChain, v.collateral)
	if err != nil {
		return nil, err
	}
	above, err := endorse.ParsePEM("collateral "+piece.Name, piece.Data)
	if err != nil {
		return nil, err
	}
	v.chain = append([]*x509.Certificate{leaf}, above...)
	if v.Root, err = endorse.Verify(r.KeyName()+" certificate", v.chain, roots, at); err != nil {
		return nil, err
	}
	if err := r.matches(cert); err != nil {
		return nil, err
	}
	return v, r.checkSignature(leaf)
}

// KeyName is what AMD's key service calls the kind of key that signed.
func (r *Report) KeyName() string {
	if r.SigningKey() == keyVLEK {
		return "vlek"
	}
	return "vcek"
}

// suitable refuses reports that say nothing about a guest on a known machine.
func (r *Report) suitable() error {
	refuse := func(want, got string) error {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonTEEUnsuitable, Where: "SNP report", Want: want, Got: got})
	}
	switch {
	case r.VMPL > 3:
		return refuse("a report that the guest asked for, VMPL 0 to 3", fmt.Sprintf("VMPL 0x%x", r.VMPL))
	case r.SigningKey() != keyVCEK && r.SigningKey() != keyVLEK:
		return refuse("a signature by VCEK or VLEK", fmt.Sprintf("SIGNING_KEY %d", r.SigningKey()))
	case r.ChipMasked():
		return refuse("the chip's identity", "a masked one")
	}
	return nil
}

// leaf returns the certificate of the key that signed.
func (r *Report) leaf(certificates [][]byte, collateral *evidence.Collateral) (*x509.Certificate, error) {
	if len(certificates) == 0 {
		piece, err := collateral.Find(evidence.CollateralAMDKey, PieceName(r))
		if err != nil {
			return nil, err
		}
		certificates = [][]byte{piece.Data}
	}
	certs, err := endorse.ParseDER(r.KeyName(), certificates[:1])
	if err != nil {
		return nil, err
	}
	return certs[0], nil
}

// PieceName is what a collateral bundle calls the VCEK of the chip at the level that the
// report states.
func PieceName(r *Report) string { return fmt.Sprintf("%x/%016x", r.ChipID, r.ReportedTCB) }

// matches holds the certificate against the report: same product, chip and level.
func (r *Report) matches(c certified) error {
	refuse := func(where, want, got string) error {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonMachineMismatch, Where: where, Want: want, Got: got})
	}
	if p := r.Product(); r.Version >= 3 && p != c.product {
		return refuse("product", fmt.Sprintf("a certificate for %q, family 0x%x model 0x%x", p, r.Family, r.Model), string(c.product))
	}
	// A chip's identity is shorter than its field on Turin: the rest is zero.
	if r.SigningKey() == keyVCEK && (len(c.hwid) < 8 || !bytes.HasPrefix(r.ChipID, c.hwid) || len(bytes.Trim(r.ChipID[len(c.hwid):], "\x00")) > 0) {
		return refuse("chip", hex.EncodeToString(r.ChipID), hex.EncodeToString(c.hwid))
	}
	if want, got := c.product.Levels(r.ReportedTCB), c.levels(); !slices.Equal(want, got) {
		return refuse("reported TCB", fmt.Sprintf("a certificate for %v", want), fmt.Sprint(got))
	}
	current, committed := c.product.Levels(r.CurrentTCB), c.product.Levels(r.Committed)
	for i, level := range c.product.Levels(r.ReportedTCB) {
		if level > current[i] || committed[i] > current[i] {
			return refuse("reported TCB", fmt.Sprintf("levels of at most the current %v", current), fmt.Sprintf("reported %v, committed %v", c.levels(), committed))
		}
	}
	return nil
}

func (r *Report) checkSignature(leaf *x509.Certificate) error {
	key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	digest := sha512.Sum384(r.signed)
	if !ok || key.Curve != elliptic.P384() || !ecdsa.Verify(key, digest[:], number(r.r), number(r.s)) {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonSignatureInvalid, Where: "SNP report",
			Want: "a signature by the key of " + leaf.Subject.String(), Got: "one that does not verify over this report"})
	}
	return nil
}

// number reads a little-endian number.
func number(b []byte) *big.Int {
	b = slices.Clone(b)
	slices.Reverse(b)
	return new(big.Int).SetBytes(b)
}

// CheckRevocation checks that AMD revoked none of the chain's certificates. Refusals are
// collateral-missing, collateral-invalid, collateral-expired and key-revoked. AMD gives
// every VCEK the same serial number, so its lists can name the authorities alone; a chip
// is refused by its identity.
func (v *Verified) CheckRevocation(collateral *evidence.Collateral, at time.Time) error {
	piece, err := collateral.Find(evidence.CollateralAMDCRL, v.collateral)
	if err != nil {
		return err
	}
	root := v.chain[len(v.chain)-1]
	var errs []error
	for _, c := range v.chain[1 : len(v.chain)-1] {
		errs = append(errs, endorse.CheckRevoked("AMD revocation list", piece.Data, root, c, at))
	}
	return endorse.Worst(errs)
}

// Claims returns what the report says, for policies.
func (v *Verified) Claims() evidence.TEEClaims {
	c := evidence.TEEClaims{
		Kind: evidence.KindSNP, Launch: "sha384:" + hex.EncodeToString(v.Measurement), HostData: hex.EncodeToString(v.HostData),
		Machine: hex.EncodeToString(v.ChipID), Platform: string(v.Product), Root: v.Root.Digest.String(),
		Debug: v.Debuggable(), Privilege: int64(v.VMPL), SVN: int64(v.GuestSVN),
		TCB: v.Product.Levels(v.ReportedTCB), TCBCommitted: v.Product.Levels(v.Committed),
	}
	if len(bytes.Trim(v.IDKey, "\x00")) > 0 {
		c.Signer = "sha384:" + hex.EncodeToString(v.IDKey)
	}
	return c
}
