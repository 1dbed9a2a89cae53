package refval

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
)

// MaxCodeSet bounds a code set's text, in bytes.
const MaxCodeSet = key.MaxText

// codeSetMagic is the first line and carries the version. It only ever grows:
//
//	1  name, file, boot
//	2  loader; kernels and initrds by their package, and ${version} in their command lines;
//	   vendor, ima-key
//	3  digests of SHA-384 in file and boot; firmware, image; the guarantee initrd-bound
var codeSetKinds = []key.Kind{key.KindCodeSet, key.KindBootSet, key.KindLongSet}

// raised returns the text in a version that is at least the one given.
func (c *CodeSet) raised(version int) string {
	if c.version >= version {
		return c.text
	}
	return strings.Replace(c.text, string(codeSetKinds[c.version-1]), string(codeSetKinds[version-1]), 1)
}

func codeSetError(offset int, field, format string, args ...any) error {
	return &keystead.FormatError{Format: "codeset", Offset: int64(offset), Field: field, Problem: fmt.Sprintf(format, args...)}
}

// ParseCodeSet reads the text form (docs/spec/codeset.md). It proves nothing about
// who wrote it; use OpenCodeSet for that. It fails with a *keystead.FormatError
// whose offset is that of the line.
func ParseCodeSet(text string) (*CodeSet, error) {
	if len(text) > MaxCodeSet {
		return nil, codeSetError(0, "whole", "is %d bytes long, at most %d are accepted", len(text), MaxCodeSet)
	}
	c := &CodeSet{text: text, digest: keystead.Sum([]byte(text)), files: map[keystead.Digest]Code{}}
	offset := 0
	for number := 0; offset < len(text); number++ {
		line, _, ended := strings.Cut(text[offset:], "\n")
		if !ended {
			return nil, codeSetError(offset, "line", "has no newline at its end")
		}
		if err := c.parseLine(number, line); err != nil {
			return nil, codeSetError(offset, fmt.Sprintf("line %d", number+1), "%v", err)
		}
		offset += len(line) + 1
	}
	if c.name == "" {
		return nil, codeSetError(offset, "name", "is missing")
	}
	slices.SortFunc(c.boots, func(a, b Boot) int { return strings.Compare(a.Name, b.Name) })
	for i := range c.boots {
		if i > 0 && c.boots[i-1].Name == c.boots[i].Name {
			return nil, codeSetError(0, "boot", "%q is stated twice", c.boots[i].Name)
		}
	}
	return c, nil
}

func (c *CodeSet) parseLine(number int, line string) error {
	if !utf8.ValidString(line) || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fmt.Errorf("holds control characters or is not UTF-8")
	}
	if number == 0 {
		if c.version = slices.Index(codeSetKinds, key.Kind(line)) + 1; c.version == 0 {
			return fmt.Errorf("is %.40q, want one of %q", line, codeSetKinds)
		}
		return nil
	}
	word, rest, _ := strings.Cut(line, " ")
	switch {
	case line == "" || strings.HasPrefix(line, "#"):
		return nil
	case word == "name" && c.name != "":
		return fmt.Errorf("names the set a second time")
	case word == "name":
		c.name = rest
		return checkWord("name", rest)
	case word == "file":
		return c.parseFile(rest)
	case word == "loader" && c.version >= 2:
		c.loaders = append(c.loaders, rest)
		return checkPackage(rest)
	case word == "vendor" && c.version >= 2:
		return c.parseVendor(rest)
	case word == "ima-key" && c.version >= 2:
		return c.parseIMAKey(rest)
	case word == "boot":
		b, err := parseBoot(rest, c.version)
		c.boots = append(c.boots, b)
		return err
	case (word == "firmware" || word == "image") && c.version >= 3:
		return c.parseLaunch(rest, word == "image")
	}
	return fmt.Errorf("%.40q is not one of name, file, boot, nor, in version 2, loader, vendor, ima-key, nor, in version 3, firmware, image", word)
}

// parseFile reads "DIGEST PATH VERSION". A path holds no spaces.
func (c *CodeSet) parseFile(rest string) error {
	fields := strings.Split(rest, " ")
	if len(fields) != 3 {
		return fmt.Errorf("want: file DIGEST PATH VERSION")
	}
	m, err := parseMeasured(fields[0], c.version)
	if err != nil {
		return err
	}
	if m.IsZero() {
		return fmt.Errorf("an all-zero digest names nothing")
	}
	if _, ok := CanonicalPath(fields[1]); !ok || !strings.HasPrefix(fields[1], "/") {
		return fmt.Errorf("%q is not an absolute path", fields[1])
	}
	if _, ok := c.files[m.Name()]; ok {
		return fmt.Errorf("%v is stated twice", m)
	}
	f := Code{Path: fields[1], Version: fields[2]}
	if m.Long() {
		f.Digest384 = m
	} else {
		f.Digest = m.Name()
	}
	c.files[m.Name()] = f
	return checkWord("version", fields[2])
}

// parseMeasured reads a digest, of SHA-384 since version 3.
func parseMeasured(s string, version int) (keystead.Measured, error) {
	if version >= 3 {
		return keystead.ParseMeasured(s)
	}
	d, err := keystead.ParseDigest(s)
	return d.Measured(), err
}

// parseLaunch reads "NAME DIGEST", of an image also "guarantees=LIST".
func (c *CodeSet) parseLaunch(rest string, image bool) error {
	fields := strings.Split(rest, " ")
	if image && len(fields) != 3 || !image && len(fields) != 2 {
		return fmt.Errorf("want: firmware NAME DIGEST, or: image NAME DIGEST guarantees=LIST")
	}
	m, err := keystead.ParseMeasured(fields[1])
	if err != nil {
		return err
	}
	l := Launch{Name: fields[0], Digest: m, Image: image}
	if _, known := c.Launch(m); known || m.IsZero() {
		return fmt.Errorf("%v is stated twice, or zeros only", m)
	}
	if image {
		list, ok := strings.CutPrefix(fields[2], "guarantees=")
		if !ok {
			return fmt.Errorf("want guarantees= at %.40q", fields[2])
		}
		if l.Guarantees, err = parseGuarantees(list, c.version); err != nil {
			return err
		}
	}
	c.launches = append(c.launches, l)
	return checkWord("name", l.Name)
}

// line gives the text of a launch measurement.
func (l Launch) line() string {
	if !l.Image {
		return fmt.Sprintf("firmware %s %v\n", l.Name, l.Digest)
	}
	return fmt.Sprintf("image %s %v guarantees=%s\n", l.Name, l.Digest, formatGuarantees(l.Guarantees))
}

// parseGuarantees reads "none" or names in ascending order, with commas.
func parseGuarantees(list string, version int) (out []Guarantee, err error) {
	if list == "none" {
		return nil, nil
	}
	for word := range strings.SplitSeq(list, ",") {
		g := Guarantee(word)
		if !slices.Contains(guarantees, g) || g == GuaranteeInitrdBound && version < 3 {
			return nil, fmt.Errorf("guarantee %q is not one of %v, the last of which is of version 3", g, guarantees)
		}
		if len(out) > 0 && out[len(out)-1] >= g {
			return nil, fmt.Errorf("guarantees are out of order")
		}
		out = append(out, g)
	}
	return out, nil
}

func formatGuarantees(list []Guarantee) string {
	if len(list) == 0 {
		return "none"
	}
	words := make([]string, len(list))
	for i, g := range list {
		words[i] = string(g)
	}
	slices.Sort(words)
	return strings.Join(words, ",")
}

// parseBoot reads "NAME kernel=PART initrd=PART|none guarantees=A,B cmdline=JSON-STRING",
// where a part is a digest or, since version 2, a package or, since version 3, a digest of
// each of SHA-256 and SHA-384, with a comma.
func parseBoot(rest string, version int) (b Boot, err error) {
	var ok bool
	if b.Name, rest, ok = strings.Cut(rest, " "); !ok {
		return b, fmt.Errorf("want: boot NAME kernel=DIGEST initrd=DIGEST guarantees=LIST cmdline=STRING")
	}
	if err := checkWord("name", b.Name); err != nil {
		return b, err
	}
	value := func(key string) (v string) {
		if v, ok = strings.CutPrefix(rest, key+"="); !ok && err == nil {
			err = fmt.Errorf("boot %s: want %s= at %.40q", b.Name, key, rest)
		}
		if key != "cmdline" {
			v, rest, _ = strings.Cut(v, " ")
		}
		return v
	}
	part := func(v string) (p bootPart) {
		p, perr := parsePart(v, version)
		if perr != nil && err == nil {
			err = fmt.Errorf("boot %s: %w", b.Name, perr)
		}
		return p
	}
	k := part(value("kernel"))
	b.Kernel, b.Kernel384, b.KernelPackage = k.short, k.long, k.pkg
	if v := value("initrd"); v != "none" {
		i := part(v)
		b.Initrd, b.Initrd384, b.InitrdPackage = i.short, i.long, i.pkg
	}
	list, cmdline := value("guarantees"), value("cmdline")
	if err != nil {
		return b, err
	}
	if b.Guarantees, err = parseGuarantees(list, version); err != nil {
		return b, fmt.Errorf("boot %s: %w", b.Name, err)
	}
	if err := json.Unmarshal([]byte(cmdline), &b.CommandLine); err != nil {
		return b, fmt.Errorf("boot %s: cmdline: %w", b.Name, err)
	}
	if one := quote(b.CommandLine); string(one) != cmdline {
		return b, fmt.Errorf("boot %s: cmdline: want the spelling %s", b.Name, one)
	}
	return b, b.check()
}

const packagePart = "package:"

// A bootPart is a kernel or an initrd: what it is by either digest, or who ships it.
type bootPart struct {
	short keystead.Digest
	long  keystead.Measured
	pkg   string
}

func parsePart(v string, version int) (p bootPart, err error) {
	if name, ok := strings.CutPrefix(v, packagePart); ok && version >= 2 {
		return bootPart{pkg: name}, checkPackage(name)
	}
	for n, word := range strings.Split(v, ",") {
		m, err := parseMeasured(word, version)
		switch {
		case err != nil:
			return p, err
		case m.IsZero():
			return p, fmt.Errorf("an all-zero digest names nothing")
		case n > 1 || !p.long.IsZero() || n > 0 && !m.Long():
			return p, fmt.Errorf("want one digest of SHA-256, then one of SHA-384, at %.40q", v)
		case m.Long():
			p.long = m
		default:
			p.short = m.Name()
		}
	}
	return p, nil
}

// checkPackage admits a package's name, or the beginning of one and an asterisk.
func checkPackage(name string) error {
	if bare := strings.TrimSuffix(name, "*"); bare == "" || strings.Contains(bare, "*") {
		return fmt.Errorf("%.80q is no package's name, nor the beginning of one and an asterisk", name)
	}
	return checkWord("package", name)
}

// String gives the text of a part.
func (p bootPart) String() string {
	var words []string
	if p.pkg != "" {
		return packagePart + p.pkg
	}
	if !p.short.IsZero() {
		words = append(words, p.short.String())
	}
	if !p.long.IsZero() {
		words = append(words, p.long.String())
	}
	if words == nil {
		return "none"
	}
	return strings.Join(words, ",")
}

func (b Boot) check() error {
	if b.KernelPackage == "" && strings.Contains(b.CommandLine, version) {
		return fmt.Errorf("boot %s: %s stands for a package's kernel, and this one is a digest", b.Name, version)
	}
	return nil
}

// checkWord admits what stands between two spaces.
func checkWord(field, s string) error {
	if s == "" || len(s) > 256 || strings.ContainsAny(s, " \"") {
		return fmt.Errorf("%s %.40q must be one word of at most 256 bytes", field, s)
	}
	return nil
}

// formatCodeSet gives the text form: loaders, files by digest, boot entries by name.
func formatCodeSet(name string, files []Code, boots []Boot, loaders []string) string {
	var b strings.Builder
	magic := key.KindCodeSet
	if len(loaders) > 0 || slices.ContainsFunc(boots, func(b Boot) bool { return b.KernelPackage+b.InitrdPackage != "" }) {
		magic = key.KindBootSet
	}
	if slices.ContainsFunc(boots, Boot.long) || slices.ContainsFunc(files, func(f Code) bool { return !f.Digest384.IsZero() }) {
		magic = key.KindLongSet
	}
	fmt.Fprintf(&b, "%s\nname %s\n", magic, name)
	files, boots = slices.Clone(files), slices.Clone(boots)
	slices.SortFunc(files, Code.compare)
	slices.SortFunc(boots, func(a, b Boot) int { return strings.Compare(a.Name, b.Name) })
	for _, l := range slices.Sorted(slices.Values(loaders)) {
		fmt.Fprintf(&b, "loader %s\n", l)
	}
	for _, f := range files {
		fmt.Fprintf(&b, "file %v %s %s\n", f.measured(), f.Path, f.Version)
	}
	for _, e := range boots {
		fmt.Fprintf(&b, "boot %s kernel=%v initrd=%v guarantees=%s cmdline=%s\n", e.Name, bootPart{e.Kernel, e.Kernel384, e.KernelPackage},
			bootPart{e.Initrd, e.Initrd384, e.InitrdPackage}, formatGuarantees(e.Guarantees), quote(e.CommandLine))
	}
	return b.String()
}

// long reports whether the boot needs version 3.
func (b Boot) long() bool {
	return !b.Kernel384.IsZero() || !b.Initrd384.IsZero() || slices.Contains(b.Guarantees, GuaranteeInitrdBound)
}

func quote(s string) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		panic(err) // a string always encodes
	}
	return bytes.TrimSpace(b.Bytes())
}
