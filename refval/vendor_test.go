package refval

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"slices"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
)

// vendorKeys are an OpenPGP certificate and keys in PKIX.
func vendorKeys(t testing.TB) (certificate, rsaDER, ecDER []byte) {
	t.Helper()
	e, err := openpgp.NewEntity("vendor", "", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := e.Serialize(&b); err != nil {
		t.Fatal(err)
	}
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaDER, err = x509.MarshalPKIXPublicKey(&r.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if ecDER, err = x509.MarshalPKIXPublicKey(&k.PublicKey); err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), rsaDER, ecDER
}

func TestVendors(t *testing.T) {
	certificate, rsaDER, ecDER := vendorKeys(t)
	vendors := []Vendor{{"acme", FormatRPM, []string{"acme-*", "libacme"}, certificate}, {"debs", FormatDeb, []string{"*"}, certificate}, {"alpine", FormatAPK, []string{"*"}, rsaDER}}
	c, err := sampleCodeSet(t).WithTrust(vendors, []IMAKey{{"farm", ecDER}, {"old-farm", rsaDER}})
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseCodeSet(c.Text())
	if err != nil || len(slices.Collect(again.Vendors())) != 3 || len(slices.Collect(again.IMAKeys())) != 2 || again.Len() != sampleCodeSet(t).Len() {
		t.Fatalf("%v: %v", again, err)
	}
	acme := slices.Collect(again.Vendors())[0]
	for name, want := range map[string]bool{"acme-tools": true, "acme-": true, "acme": false, "libacme": true, "libacme2": false, "bash": false, "": false} {
		if acme.Covers(name) != want {
			t.Errorf("acme covers %q: %t", name, !want)
		}
	}
	if s, err := acme.Signers(); err != nil || len(s) != 1 || len(s[0]) != 40 {
		t.Errorf("signers %v, %v", s, err)
	}
}

func TestVendorsRefused(t *testing.T) {
	certificate, rsaDER, ecDER := vendorKeys(t)
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	smallDER, err := x509.MarshalPKIXPublicKey(&small.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	text := base64.StdEncoding.EncodeToString
	pgp, r, e, s := text(certificate), text(rsaDER), text(ecDER), text(smallDER)
	const two = "keystead-codeset/2\nname x\n"
	for _, tc := range []struct{ text, problem string }{
		{"keystead-codeset/1\nname x\nvendor a rpm packages=* key=" + pgp + "\n", "not one of"},
		{"keystead-codeset/1\nname x\nima-key a " + r + "\n", "not one of"},
		{two + "vendor a rpm packages=*\n", "want: vendor"},
		{two + "vendor a msi packages=* key=" + pgp + "\n", "not one of deb, rpm, apk"},
		{two + "vendor a rpm packages= key=" + pgp + "\n", "packages are names"},
		{two + "vendor a rpm packages=b,a key=" + pgp + "\n", "ascending"},
		{two + "vendor a rpm packages=a*b key=" + pgp + "\n", "packages are names"},
		{two + "vendor a rpm packages=* key=" + r + "\n", "key"},
		{two + "vendor a rpm packages=* key=" + pgp + "A\n", "base64"},
		{two + "vendor a apk packages=* key=" + pgp + "\n", "key"},
		{two + "vendor a apk packages=* key=" + e + "\n", "RSA key of"},
		{two + "vendor a apk packages=* key=" + s + "\n", "RSA key of"},
		{two + strings.Repeat("vendor a rpm packages=* key="+pgp+"\n", 2), "twice"},
		{two + "ima-key a\n", "want: ima-key"},
		{two + "ima-key a " + s + "\n", "RSA key of"},
		{two + "ima-key a " + pgp + "\n", "ima-key a"},
		{two + strings.Repeat("ima-key a "+r+"\n", 2), "twice"},
	} {
		if _, err := ParseCodeSet(tc.text); err == nil || !strings.Contains(err.Error(), tc.problem) {
			t.Errorf("%.120q: %v, want %q", tc.text, err, tc.problem)
		}
	}
}

func FuzzVendor(f *testing.F) {
	certificate, rsaDER, ecDER := vendorKeys(f)
	f.Add("vendor a deb packages=a,b* key=" + base64.StdEncoding.EncodeToString(certificate))
	f.Add("vendor a apk packages=* key=" + base64.StdEncoding.EncodeToString(rsaDER))
	f.Add("ima-key a " + base64.StdEncoding.EncodeToString(ecDER))
	f.Fuzz(func(t *testing.T, line string) {
		c, err := ParseCodeSet("keystead-codeset/2\nname x\n" + line + "\n")
		if err != nil {
			return
		}
		empty, err := ParseCodeSet("keystead-codeset/2\nname x\n")
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(line, "vendor ") || strings.HasPrefix(line, "ima-key ") {
			again, err := empty.WithTrust(slices.Collect(c.Vendors()), slices.Collect(c.IMAKeys()))
			if err != nil || again.Text() != c.Text() && !strings.Contains(line, "\n") {
				t.Fatalf("%q: written again it is %q: %v", line, again.Text(), err)
			}
		}
	})
}
