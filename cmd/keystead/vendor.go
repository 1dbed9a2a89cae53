package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/fetch"
	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/refval"
	"github.com/keystead/keystead/refval/apk"
	"github.com/keystead/keystead/refval/rpm"
)

// maxKeyFile bounds a file of public keys, in bytes.
const maxKeyFile = 4 << 20

// trusting adds vendors and IMA keys, as the flags give them, to a code set.
func trusting(set *refval.CodeSet, vendors, imaKeys []string) (*refval.CodeSet, error) {
	if len(vendors)+len(imaKeys) == 0 {
		return set, nil
	}
	var vs []refval.Vendor
	for _, text := range vendors {
		v, err := vendorOf(text)
		if err != nil {
			return nil, err
		}
		vs = append(vs, v)
	}
	var ks []refval.IMAKey
	for _, text := range imaKeys {
		name, file, ok := strings.Cut(text, ":")
		if !ok {
			return nil, cli.Misuse(fmt.Errorf("--ima-key is %.80q, want NAME:FILE", text), "")
		}
		der, err := readPublicKey(file)
		if err != nil {
			return nil, err
		}
		ks = append(ks, refval.IMAKey{Name: name, Key: der})
	}
	set, err := set.WithTrust(vs, ks)
	if err != nil {
		return nil, cli.Misuse(err, "docs/spec/codeset.md describes vendors and IMA keys")
	}
	return set, nil
}

// vendorOf reads NAME:FORMAT:PACKAGE[,PACKAGE]:FILE and the file.
func vendorOf(text string) (refval.Vendor, error) {
	f := strings.SplitN(text, ":", 4)
	if len(f) != 4 {
		return refval.Vendor{}, cli.Misuse(fmt.Errorf("--vendor is %.80q, want NAME:FORMAT:PACKAGE[,PACKAGE]:FILE", text), "such as fedora:rpm:*:RPM-GPG-KEY-fedora")
	}
	v := refval.Vendor{Name: f[0], Format: refval.Format(f[1]), Packages: strings.Split(f[2], ",")}
	slices.Sort(v.Packages)
	var err error
	switch f[1] {
	case "apk":
		v.Key, err = readPublicKey(f[3])
		return v, err
	case "deb":
		v.Format = refval.FormatDeb
	}
	raw, err := cli.ReadFile(f[3], maxKeyFile)
	if err != nil {
		return v, err
	}
	keys, err := rpm.ParseKeyring(raw) // OpenPGP certificates, whatever they sign
	if err != nil {
		return v, cli.Misuse(fmt.Errorf("%s: %w", f[3], err), "a vendor's key is a file of OpenPGP certificates")
	}
	v.Key, err = keys.Bytes()
	return v, err
}

// readPublicKey reads a public key or a certificate, PEM or DER, and returns PKIX DER.
func readPublicKey(file string) ([]byte, error) {
	raw, err := cli.ReadFile(file, maxKeyFile)
	if err != nil {
		return nil, err
	}
	if block, _ := pem.Decode(raw); block != nil {
		raw = block.Bytes
	}
	if cert, err := x509.ParseCertificate(raw); err == nil {
		return cert.RawSubjectPublicKeyInfo, nil
	}
	if _, err := x509.ParsePKIXPublicKey(raw); err != nil {
		return nil, cli.Misuse(fmt.Errorf("%s: neither a public key nor a certificate", file), "a public key as `openssl pkey -pubout` writes it is wanted")
	}
	return raw, nil
}

// readVendors returns the vendors of a code set's file, signed or not: it is the
// caller's own choice, and nobody else's word is taken for it.
func readVendors(file string) ([]refval.Vendor, error) {
	if file == "" {
		return nil, nil
	}
	text, err := cli.ReadFile(file, key.MaxNote)
	if err != nil {
		return nil, err
	}
	if key.IsNote(text) {
		if text, _, err = key.Peek(text); err != nil {
			return nil, err
		}
	}
	set, err := refval.ParseCodeSet(string(text))
	if err != nil {
		return nil, cli.Misuse(fmt.Errorf("%s: %w", file, err), "keystead codeset build writes code sets")
	}
	vendors := slices.Collect(set.Vendors())
	if len(vendors) == 0 {
		return nil, cli.Misuse(errors.New(file+" names no vendor"), "keystead codeset build --vendor names one")
	}
	return vendors, nil
}

// buildOther builds the set of an rpm or apk host's list: of the headers that prove
// themselves, or from repositories. Nothing is written of a set that proves nothing.
func (a *app) buildOther(ctx context.Context, list *evidence.PackageList, vendors []refval.Vendor, s refval.Selection, repositories []string, complete bool) (*refval.Set, error) {
	if len(vendors) == 0 {
		return nil, cli.Misuse(errors.New("nobody is accepted as the packages' vendor"), "--codeset names a code set whose vendors may sign them (keystead codeset build --vendor)")
	}
	var set *refval.Set
	var refused []keystead.Finding
	if list.Format == evidence.FormatRPMHeaders {
		p, err := rpm.Prove(rpm.Unpack(list.Data), vendors, s, time.Now())
		if err != nil {
			return nil, err
		}
		set = p.Set
		for _, r := range p.Refused {
			refused = append(refused, r.Finding)
		}
	} else {
		if len(repositories) == 0 {
			return nil, cli.Misuse(errors.New("an Alpine host's list proves nothing of itself"), "--repository names a directory with APKINDEX.tar.gz, by http, https or file")
		}
		names, err := apk.ParseInstalled(list.Data)
		if err == nil {
			set, err = fetch.BuildAPK(ctx, fetch.APKOptions{Packages: names, Repositories: repositories, Vendors: vendors, Selection: s})
		}
		var deny *keystead.DenyError
		var format *keystead.FormatError
		if err != nil && !errors.As(err, &deny) && !errors.As(err, &format) && ctx.Err() == nil {
			err = cli.Unavailable(err, "check the network, and the repository's address")
		}
		if err != nil {
			return nil, err
		}
		for _, m := range set.Header().Missing {
			refused = append(refused, m.Finding())
		}
	}
	proven := len(set.Header().Packages)
	if len(refused) > 0 && (complete || proven == 0) {
		return nil, cli.Hinted(keystead.Deny(refused...), "nothing was written; without --complete, such packages are left out as long as others are proven")
	}
	for i, f := range refused {
		if i == fewMissing {
			fmt.Fprintf(a.Stderr, "keystead: and %d more packages that are left out\n", len(refused)-i)
			break
		}
		fmt.Fprintf(a.Stderr, "keystead: left out %s: %s: %s\n", cli.Printable(f.Where), f.Reason, cli.Printable(f.Got))
	}
	return set, nil
}
