package tpm2

import (
	"crypto/x509"
	"fmt"
	"strings"
	"time"
)

// What vendors' roots of TPMs are like: they are made once for many years, long before the machines
// that they are trusted for.
const (
	leastRootYears = 10
	leastRootAge   = 365 * 24 * time.Hour
)

// testNames stand in the names of authorities that certify software and virtual TPMs.
var testNames = []string{"swtpm", "software tpm", "localca", "vtpm", "virtual tpm", "simulator", "test"}

// Doubts says of each root that is taken for a hardware vendor's what it has of one for software
// TPMs, as of a time: its name, its age, or how long it lasts. It proves nothing either way. That a
// root is a vendor's, the vendor says: by its digest, on its own pages.
func (r Roots) Doubts(now time.Time) (out []string) {
	for _, c := range r.Hardware {
		if why := doubt(c, now); why != "" {
			out = append(out, fmt.Sprintf("root %q %s: if it certifies software TPMs, whoever owns one is every machine that he says he is, at the level of real hardware", c.Subject, why))
		}
	}
	return out
}

func doubt(c *x509.Certificate, now time.Time) string {
	name := strings.ToLower(c.Subject.String() + " " + c.Issuer.String())
	for _, t := range testNames {
		if strings.Contains(name, t) {
			return fmt.Sprintf("has %q in its name", t)
		}
	}
	if age := now.Sub(c.NotBefore); age < leastRootAge {
		return "was made on " + c.NotBefore.UTC().Format(time.DateOnly) + ", less than a year ago"
	}
	if c.NotAfter.Before(c.NotBefore.AddDate(leastRootYears, 0, 0).Add(-leastRootAge)) { // some are a few days short
		return fmt.Sprintf("lasts from %s to %s, and vendors' last for decades", c.NotBefore.UTC().Format(time.DateOnly), c.NotAfter.UTC().Format(time.DateOnly))
	}
	return ""
}
