package fetch

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/refval"
	"github.com/keystead/keystead/refval/apk"
)

// APKOptions say what to build a set of Alpine's packages of, and from what.
type APKOptions struct {
	Packages     []apk.Name       // whose files to take, such as apk.ParseInstalled gives
	Repositories []string         // addresses (http, https, file) of directories with an APKINDEX.tar.gz
	Vendors      []refval.Vendor  // who may sign indexes and packages, and which
	Selection    refval.Selection // which of their files; "": all
}

// BuildAPK makes the reference set of the packages. One that no signed index offers in
// that version, to a vendor whose package it is, or whose file can not be had, is named
// in the set's header as missing. An index or a file that is not what its signature or
// index says fails the build.
func BuildAPK(ctx context.Context, o APKOptions) (*refval.Set, error) {
	if o.Selection == "" {
		o.Selection = refval.SelectAll
	}
	b := apkBuild{APKOptions: o, net: newTransport(), builder: refval.NewBuilder(o.Selection), wanted: map[apk.Name]bool{}}
	for _, v := range o.Vendors {
		if v.Format != refval.FormatAPK {
			continue
		}
		k, err := apk.ParseKey(v.Key)
		if err != nil {
			return nil, err
		}
		b.keys, b.vendors = append(b.keys, k), append(b.vendors, v)
	}
	for _, n := range o.Packages {
		b.wanted[n] = true
	}
	for _, r := range o.Repositories {
		if err := b.repository(ctx, strings.TrimSuffix(r, "/")); err != nil {
			return nil, err
		}
	}
	for n := range b.wanted { // the builder sorts
		b.builder.AddMissing(refval.Missing{Name: n.Package, Version: n.Version, Architecture: n.Architecture, Problem: "no signed index offers this version"})
	}
	return b.builder.Set()
}

type apkBuild struct {
	APKOptions
	net     *transport
	builder *refval.Builder
	keys    []apk.Key
	vendors []refval.Vendor
	wanted  map[apk.Name]bool // and not had yet
}

func (b *apkBuild) repository(ctx context.Context, base string) error {
	raw, err := b.net.get(ctx, base+"/APKINDEX.tar.gz", apk.MaxIndex)
	if err != nil {
		return err
	}
	index, err := apk.OpenIndex(raw, b.keys)
	if err != nil {
		return err
	}
	for p, err := range index.Packages() {
		if err != nil {
			return err
		}
		vendor, ok := b.vendor(index.Signer, p.Package)
		if !b.wanted[p.Name] || !ok {
			continue
		}
		if err := b.add(ctx, base, index.Repository(vendor), p); err != nil {
			return err
		}
	}
	return nil
}

// vendor returns whose key signed, if the package is theirs.
func (b *apkBuild) vendor(signer, pkg string) (string, bool) {
	for i, v := range b.vendors {
		if b.keys[i].Signer == signer && v.Covers(pkg) {
			return v.Name, true
		}
	}
	return "", false
}

func (b *apkBuild) add(ctx context.Context, base string, from refval.Repository, p apk.Package) error {
	raw, err := b.net.get(ctx, base+"/"+p.Filename(), min(p.Size, maxDeb))
	switch {
	case errors.Is(err, errTooLarge):
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonIndexMismatch, Where: p.Filename(), Want: fmt.Sprintf("%d bytes", p.Size), Got: "more"})
	case errors.Is(err, errAbsent):
		return nil // stays missing
	case err != nil:
		return err
	}
	var keys []apk.Key
	for i, v := range b.vendors {
		if v.Covers(p.Package) {
			keys = append(keys, b.keys[i])
		}
	}
	files, err := apk.Unpack(raw, p, keys, apk.DefaultLimits)
	if err != nil {
		return err
	}
	var taken []refval.File
	for _, f := range files {
		if f.Executable || b.Selection == refval.SelectAll {
			taken = append(taken, f.File)
		}
	}
	delete(b.wanted, p.Name)
	return b.builder.Add(p.Reference(keystead.Sum(raw)), []refval.Repository{from}, taken)
}
