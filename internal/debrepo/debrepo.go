// Package debrepo writes small signed Debian repositories for tests: honest ones, and
// with Edit dishonest ones. It writes each format itself, so that tests do not check
// the readers against themselves.
package debrepo

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/klauspost/compress/zstd"
)

// Signer is an OpenPGP key made for a test.
type Signer struct{ entity *openpgp.Entity }

func clock(at time.Time) *packet.Config {
	return &packet.Config{Time: func() time.Time { return at }, Algorithm: packet.PubKeyAlgoEdDSA}
}

// NewSigner makes a key that is valid from a time on, for ever if valid is 0.
func NewSigner(name string, from time.Time, valid time.Duration) *Signer {
	c := clock(from)
	c.KeyLifetimeSecs = uint32(valid / time.Second)
	e, err := openpgp.NewEntity(name, "", name+"@test.example", c)
	check(err)
	return &Signer{e}
}

// Revoke revokes the key at a time; Public then says so.
func (s *Signer) Revoke(at time.Time) {
	check(s.entity.RevokeKey(packet.KeyCompromised, "test", clock(at)))
}

// Public returns the certificate, binary.
func (s *Signer) Public() []byte {
	var b bytes.Buffer
	check(s.entity.Serialize(&b))
	return b.Bytes()
}

// Fingerprint returns the primary key's, in upper-case hex.
func (s *Signer) Fingerprint() string { return fmt.Sprintf("%X", s.entity.PrimaryKey.Fingerprint) }

// Sign clear-signs the text at a time.
func Sign(text string, at time.Time, signers ...*Signer) []byte {
	var keys []*packet.PrivateKey
	for _, s := range signers {
		keys = append(keys, s.entity.PrivateKey)
	}
	var b bytes.Buffer
	w, err := clearsign.EncodeMulti(&b, keys, clock(at))
	check(err)
	_, err = w.Write([]byte(text))
	check(err)
	check(w.Close())
	return append(b.Bytes(), '\n')
}

// Deb writes a .deb whose data.tar is packed by suffix: "", .gz or .zst.
func Deb(suffix string, members ...tar.Header) []byte {
	return Ar("debian-binary", []byte("2.0\n"), "control.tar", Tar(), "data.tar"+suffix, Pack(suffix, Tar(members...)))
}

// Installable writes a .deb that dpkg installs: its control file, with all that it must
// say, and scripts such as postinst.
func Installable(name, version string, scripts map[string]string, members ...tar.Header) []byte {
	text := fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: amd64\nMaintainer: Test <test@test.example>\nDescription: a test\n", name, version)
	control := []tar.Header{{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "./control", Typeflag: tar.TypeReg, Mode: 0o644, Uname: text}}
	for _, script := range slices.Sorted(maps.Keys(scripts)) {
		control = append(control, tar.Header{Name: "./" + script, Typeflag: tar.TypeReg, Mode: 0o755, Uname: scripts[script]})
	}
	return Ar("debian-binary", []byte("2.0\n"), "control.tar.gz", Pack(".gz", Tar(control...)), "data.tar.gz", Pack(".gz", Tar(members...)))
}

// Tar writes an archive; a regular member's content is its header's Uname, which
// test members have no other use for.
func Tar(members ...tar.Header) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range members {
		content := ""
		if h.Typeflag == tar.TypeReg || h.Typeflag == 0 {
			content, h.Size = h.Uname, int64(len(h.Uname))
		}
		h.Uname = ""
		check(w.WriteHeader(&h))
		_, err := w.Write([]byte(content))
		check(err)
	}
	check(w.Close())
	return b.Bytes()
}

// Pack packs by suffix: "", .gz or .zst.
func Pack(suffix string, raw []byte) []byte {
	var b bytes.Buffer
	switch suffix {
	case ".gz":
		w := gzip.NewWriter(&b)
		_, err := w.Write(raw)
		check(err)
		check(w.Close())
	case ".zst":
		w, err := zstd.NewWriter(&b)
		check(err)
		_, err = w.Write(raw)
		check(err)
		check(w.Close())
	default:
		return raw
	}
	return b.Bytes()
}

// Ar writes an archive of names (string) and contents ([]byte), in turn.
func Ar(members ...any) []byte {
	b := []byte("!<arch>\n")
	for i := 0; i < len(members); i += 2 {
		content := members[i+1].([]byte)
		b = fmt.Appendf(b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", members[i], 0, 0, 0, "100644", len(content))
		b = append(b, content...)
		if len(content)%2 == 1 {
			b = append(b, '\n')
		}
	}
	return b
}

// Package is a package of a repository.
type Package struct {
	Name, Version, Architecture string
	Deb                         []byte
	NoMD5                       bool // state none, for readers that check it; else a wrong one
}

func (p Package) md5() string {
	if p.NoMD5 {
		return ""
	}
	return fmt.Sprintf("MD5sum: %032d\n", 0)
}

// Filename is where the repository keeps the package.
func (p Package) Filename() string {
	return fmt.Sprintf("pool/main/%s/%s_%s_%s.deb", p.Name, p.Name, strings.ReplaceAll(p.Version, ":", "%3a"), p.Architecture)
}

// Stanza is what the index says of the package.
func (p Package) Stanza() string {
	return fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: %s\nDescription: a test\n package\nFilename: %s\nSize: %d\n%sSHA256: %x\n\n",
		p.Name, p.Version, p.Architecture, p.Filename(), len(p.Deb), p.md5(), sha256.Sum256(p.Deb))
}

// Repository is what to write. Suite is its codename too.
type Repository struct {
	Suite      string
	Date       time.Time
	ValidUntil time.Time // zero: not stated
	Packages   []Package
	Signers    []*Signer
}

// Index is the unpacked Packages file.
func (r Repository) Index() string {
	var b strings.Builder
	for _, p := range r.Packages {
		b.WriteString(p.Stanza())
	}
	return b.String()
}

// IndexName is the index's name in the release.
const IndexName = "main/binary-amd64/Packages"

// Release is the text that is signed, for an index.
func (r Repository) Release(index string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Origin: Test\nLabel: Test\nSuite: %s\nCodename: %s\nDate: %s\n", r.Suite, r.Suite, r.Date.UTC().Format(time.RFC1123Z))
	if !r.ValidUntil.IsZero() {
		fmt.Fprintf(&b, "Valid-Until: %s\n", r.ValidUntil.UTC().Format(time.RFC1123Z))
	}
	b.WriteString("Acquire-By-Hash: yes\nArchitectures: amd64\nComponents: main\n")
	if !slices.ContainsFunc(r.Packages, func(p Package) bool { return p.NoMD5 }) {
		fmt.Fprintf(&b, "MD5Sum:\n %032d %d %s\n", 0, len(index), IndexName)
	}
	b.WriteString("SHA256:\n")
	packed := Pack(".gz", []byte(index))
	fmt.Fprintf(&b, " %x %d %s\n %x %d %s.gz\n", sha256.Sum256([]byte(index)), len(index), IndexName, sha256.Sum256(packed), len(packed), IndexName)
	return b.String()
}

// Files returns the repository's files by their paths below its root.
func (r Repository) Files() map[string][]byte {
	index := r.Index()
	packed := Pack(".gz", []byte(index))
	dist := "dists/" + r.Suite + "/"
	out := map[string][]byte{
		dist + "InRelease":       Sign(r.Release(index), r.Date, r.Signers...),
		dist + IndexName:         []byte(index),
		dist + IndexName + ".gz": packed,
		fmt.Sprintf("%smain/binary-amd64/by-hash/SHA256/%x", dist, sha256.Sum256(packed)): packed,
	}
	for _, p := range r.Packages {
		out[p.Filename()] = p.Deb
	}
	return out
}

// Names returns the paths of files, sorted.
func Names(files map[string][]byte) []string { return slices.Sorted(maps.Keys(files)) }

func check(err error) {
	if err != nil {
		panic(err)
	}
}
