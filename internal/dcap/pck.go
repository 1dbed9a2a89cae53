package dcap

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
)

// PCK is what a machine's PCK certificate says of it (Intel SGX PCK Certificate and
// CRL Profile Specification, 1.3.5).
type PCK struct {
	PPID       []byte // 16: the machine's identity
	FMSPC      string // hex of 6 bytes: family, model, stepping, platform, custom SKU
	PCEID      string // hex of 2 bytes
	Components [16]int64
	PCESVN     int64
	CPUSVN     []byte // 16
}

var (
	oidSGX = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}
	oidTCB = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1, 2}
)

// extension is one entry of the sequence, whose value's type depends on its name.
type extension struct {
	ID    asn1.ObjectIdentifier
	Value asn1.RawValue
}

// readPCK reads the extension; each entry that counts is there once.
func readPCK(cert *x509.Certificate) (*PCK, error) {
	for _, e := range cert.Extensions {
		if !e.Id.Equal(oidSGX) {
			continue
		}
		p, seen := &PCK{}, map[string]bool{}
		if err := eachExtension(e.Value, oidSGX, func(n int, v asn1.RawValue) error {
			return p.set(n, v, seen)
		}); err != nil {
			return nil, err
		}
		for _, want := range []string{"1", "2", "3", "4", "2.17", "2.18"} {
			if !seen[want] {
				return nil, fmt.Errorf("lacks %v.%s", oidSGX, want)
			}
		}
		for i := range p.Components {
			if !seen[fmt.Sprintf("2.%d", i+1)] {
				return nil, fmt.Errorf("lacks component %d of the TCB", i+1)
			}
		}
		return p, nil
	}
	return nil, errors.New("has no SGX extension")
}

func eachExtension(der []byte, under asn1.ObjectIdentifier, each func(n int, v asn1.RawValue) error) error {
	var list []extension
	if rest, err := asn1.Unmarshal(der, &list); err != nil || len(rest) > 0 {
		return fmt.Errorf("%v does not parse: %v, %d bytes left over", under, err, len(rest))
	}
	for _, e := range list {
		if len(e.ID) != len(under)+1 || !e.ID[:len(under)].Equal(under) {
			return fmt.Errorf("%v does not belong below %v", e.ID, under)
		}
		if err := each(e.ID[len(under)], e.Value); err != nil {
			return fmt.Errorf("%v: %w", e.ID, err)
		}
	}
	return nil
}

func (p *PCK) set(n int, v asn1.RawValue, seen map[string]bool) error {
	name := fmt.Sprint(n)
	if seen[name] {
		return errors.New("is there twice")
	}
	seen[name] = true
	octets := func(size int) ([]byte, error) {
		if v.Tag != asn1.TagOctetString || v.Class != asn1.ClassUniversal || len(v.Bytes) != size {
			return nil, fmt.Errorf("is not %d octets", size)
		}
		return v.Bytes, nil
	}
	var b []byte
	var err error
	switch n {
	case 1:
		p.PPID, err = octets(16)
	case 2:
		return eachExtension(v.FullBytes, oidTCB, func(n int, v asn1.RawValue) error { return p.setTCB(n, v, seen) })
	case 3:
		b, err = octets(2)
		p.PCEID = hex.EncodeToString(b)
	case 4:
		b, err = octets(6)
		p.FMSPC = hex.EncodeToString(b)
	}
	return err
}

func (p *PCK) setTCB(n int, v asn1.RawValue, seen map[string]bool) error {
	name := fmt.Sprintf("2.%d", n)
	if seen[name] {
		return errors.New("is there twice")
	}
	seen[name] = true
	if n == 18 {
		if v.Tag != asn1.TagOctetString || len(v.Bytes) != 16 {
			return errors.New("is not 16 octets")
		}
		p.CPUSVN = bytes.Clone(v.Bytes)
		return nil
	}
	var svn int64
	if rest, err := asn1.Unmarshal(v.FullBytes, &svn); err != nil || len(rest) > 0 || svn < 0 || svn > 65535 {
		return errors.New("is not a small number")
	}
	switch {
	case n >= 1 && n <= len(p.Components):
		p.Components[n-1] = svn
	case n == 17:
		p.PCESVN = svn
	}
	return nil
}
