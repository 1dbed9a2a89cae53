package snp

import (
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// A Product is a family of AMD processors, as AMD's key service names it.
type Product string

// The products that are known here.
const (
	Milan Product = "Milan"
	Genoa Product = "Genoa"
	Turin Product = "Turin"
)

// Product returns what the report says it is of, or "" before version 3. Family and
// model are CPUID's combined values.
func (r *Report) Product() Product {
	switch {
	case r.Version < 3:
		return ""
	case r.Family == 0x19 && r.Model <= 0x0F:
		return Milan
	case r.Family == 0x19 && (r.Model >= 0x10 && r.Model <= 0x1F || r.Model >= 0xA0 && r.Model <= 0xAF):
		return Genoa
	case r.Family == 0x1A && r.Model <= 0x11:
		return Turin
	}
	return ""
}

// Extensions of AMD's certificates (Versioned Chip Endorsement Key Certificate and KDS
// Interface Specification, section 3.1).
var (
	oidProduct = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 2}
	oidSPL     = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 3} // .1 to .9
	oidHWID    = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 4}
)

// certified is what a VCEK's or VLEK's certificate says.
type certified struct {
	product Product
	spl     [10]int64 // by the last number of the extension; -1: not stated
	hwid    []byte
}

func readCertificate(cert *x509.Certificate) (c certified, err error) {
	for i := range c.spl {
		c.spl[i] = -1
	}
	for _, ext := range cert.Extensions {
		switch n := len(ext.Id); {
		case ext.Id.Equal(oidProduct):
			var name string
			if _, err := asn1.UnmarshalWithParams(ext.Value, &name, "ia5"); err != nil {
				return c, fmt.Errorf("product name: %w", err)
			}
			name, _, _ = strings.Cut(name, "-") // Milan-B0
			c.product = Product(name)
		case ext.Id.Equal(oidHWID):
			c.hwid = ext.Value
		case n == len(oidSPL)+1 && ext.Id[:n-1].Equal(oidSPL) && ext.Id[n-1] < len(c.spl):
			var level int64
			if _, err := asn1.Unmarshal(ext.Value, &level); err != nil || level < 0 || level > 255 {
				return c, fmt.Errorf("security patch level %v is %x", ext.Id, ext.Value)
			}
			c.spl[ext.Id[n-1]] = level
		}
	}
	if !slices.Contains([]Product{Milan, Genoa, Turin}, c.product) {
		return c, fmt.Errorf("product is %.40q, want Milan, Genoa or Turin", c.product)
	}
	return c, nil
}

// Levels splits TCB_VERSION (section 2.2): boot loader, TEE (PSP operating system), SNP
// firmware, microcode; for Turin the FMC (the first firmware that runs) behind them.
func (p Product) Levels(tcb uint64) []int64 {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], tcb)
	level := func(at ...int) (out []int64) {
		for _, i := range at {
			out = append(out, int64(b[i]))
		}
		return out
	}
	if p == Turin {
		return level(1, 2, 3, 7, 0)
	}
	return level(0, 1, 6, 7)
}

// levels returns what the certificate states, in the order of Levels.
func (c certified) levels() []int64 {
	out := []int64{c.spl[1], c.spl[2], c.spl[3], c.spl[8]}
	if c.product == Turin {
		out = append(out, c.spl[9])
	}
	return out
}
