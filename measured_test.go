package keystead

import (
	"crypto/sha512"
	"strings"
	"testing"
)

func TestMeasured(t *testing.T) {
	long, short := Sum384([]byte("kernel")), Sum([]byte("kernel"))
	for _, m := range []Measured{long, short.Measured()} {
		if back, err := ParseMeasured(m.String()); err != nil || back != m || m.IsZero() || MeasuredBytes(m.Bytes()) != m {
			t.Errorf("%v comes back as %v, %v", m, back, err)
		}
	}
	if want := sha512.Sum384([]byte("kernel")); !long.Long() || string(long.Bytes()) != string(want[:]) {
		t.Errorf("SHA-384 is %v", long)
	}
	if short.Measured().Name() != short || long.Name() != Sum([]byte(long.String())) || long.Name() == short {
		t.Errorf("names are %v and %v", short.Measured().Name(), long.Name())
	}
	for _, s := range []string{"", "sha384:", "sha384:" + strings.Repeat("0", 64), "sha384:" + strings.Repeat("A", 96), "sha512:" + strings.Repeat("0", 96), short.String()[1:], long.String() + "0"} {
		if m, err := ParseMeasured(s); err == nil {
			t.Errorf("%q reads as %v", s, m)
		}
	}
	if (Measured{}) != MeasuredBytes(nil) || !MeasuredBytes(make([]byte, 20)).IsZero() || !(Digest{}).Measured().IsZero() || (Digest{}).Measured() != (Measured{}) {
		t.Error("what is no digest is not the zero value")
	}
}
