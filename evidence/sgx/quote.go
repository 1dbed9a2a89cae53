// Package sgx reads and verifies quotes of Intel SGX enclaves: DCAP quotes of version 3
// (SGX ECDSA Quote Library API, appendix A.4).
//
// [Verify] checks signatures up to a pinned root, [Verified.Standing] what Intel says of
// the machine. Which enclave it is, is for policies to judge; it trusts the pinned roots
// and nothing else.
package sgx

import (
	"encoding/hex"
	"fmt"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/dcap"
)

// Quote is a DCAP quote with an enclave's report. Byte strings alias the input.
type Quote struct {
	*dcap.Enclave

	quote *dcap.Quote
}

// Parse reads a quote of version 3. It fails with a *keystead.FormatError.
func Parse(raw []byte) (*Quote, error) {
	d, err := dcap.Parse(raw)
	if err != nil {
		return nil, err
	}
	if d.Version != 3 {
		return nil, &keystead.FormatError{Format: "sgx-quote", Field: "version", Problem: fmt.Sprintf("is %d, want 3", d.Version)}
	}
	e, err := dcap.ParseEnclave(d.Body)
	if err != nil {
		return nil, err
	}
	return &Quote{e, d}, nil
}

// Machine says which collateral the quote needs; nothing of it is verified.
func (q *Quote) Machine() (fmspc, authority string, err error) { return q.quote.Machine() }

// Verified is a quote whose signature leads to a pinned root.
type Verified struct {
	*Quote
	*dcap.Verified
}

// Verify checks the signatures; see dcap.Verify for the refusals.
func Verify(raw []byte, roots evidence.VendorRoots, at time.Time) (*Verified, error) {
	q, err := Parse(raw)
	if err != nil {
		return nil, err
	}
	v, err := dcap.Verify(q.quote, roots, at)
	if err != nil {
		return nil, err
	}
	return &Verified{q, v}, nil
}

// Standing looks the machine up in the collateral.
func (v *Verified) Standing(collateral *evidence.Collateral, roots evidence.VendorRoots, at time.Time) (*dcap.Standing, error) {
	return v.Verified.Standing(nil, collateral, roots, at)
}

// Spared checks what holds of it whatever the collateral's age, and without any.
func (v *Verified) Spared(collateral *evidence.Collateral, roots evidence.VendorRoots, at time.Time) error {
	return v.Verified.Spared(nil, collateral, roots, at)
}

// Claims returns what quote and certificate say, for policies.
func (v *Verified) Claims() evidence.TEEClaims {
	c := v.PCK.Claims(evidence.KindSGX, v.Root)
	c.Launch, c.Signer = "sha256:"+hex.EncodeToString(v.MREnclave), "sha256:"+hex.EncodeToString(v.MRSigner)
	c.HostData, c.Debug = hex.EncodeToString(v.ConfigID), v.Enclave.Debug()
	c.ProductID, c.SVN = int64(v.ProductID), int64(v.SVN)
	return c
}
