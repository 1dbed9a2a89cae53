package authenticode_test

import (
	"bytes"
	"crypto/sha256"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/authenticode"
)

// image makes a PE32+ file of two sections, with a certificate table if wanted.
func image(checksum uint32, certificates []byte) []byte {
	var b bytes.Buffer
	put := func(v any) {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
	dos := make([]byte, 64)
	copy(dos, "MZ")
	dos[60] = 64
	put(dos)
	put([]byte("PE\x00\x00"))
	put(pe.FileHeader{Machine: pe.IMAGE_FILE_MACHINE_AMD64, NumberOfSections: 2, SizeOfOptionalHeader: 240})
	sections := bytes.Repeat([]byte("section"), 64)[:256]
	oh := pe.OptionalHeader64{Magic: 0x20b, SizeOfHeaders: 384 + 64, CheckSum: checksum, NumberOfRvaAndSizes: 16}
	if certificates != nil {
		oh.DataDirectory[4] = pe.DataDirectory{VirtualAddress: 448 + 256, Size: uint32(len(certificates))}
	}
	put(oh)
	for i := range uint32(2) {
		put(pe.SectionHeader32{Name: [8]uint8{'.', 'a' + uint8(i)}, SizeOfRawData: 128, PointerToRawData: 448 + i*128})
	}
	put(make([]byte, 448-b.Len()))
	put(sections)
	put(certificates)
	return b.Bytes()
}

// reference hashes headers and sections one by one, as the format's document
// describes it, with Go's own reader of PE files.
func reference(t *testing.T, file []byte) keystead.Digest {
	t.Helper()
	f, err := pe.NewFile(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	oh := f.OptionalHeader.(*pe.OptionalHeader64)
	const optional = 64 + 24
	h := sha256.New()
	h.Write(file[:optional+64])
	h.Write(file[optional+68 : optional+144])
	h.Write(file[optional+152 : oh.SizeOfHeaders])
	for _, s := range f.Sections {
		h.Write(file[s.Offset : s.Offset+s.Size])
	}
	return keystead.Digest(h.Sum(nil))
}

func TestDigest(t *testing.T) {
	plain := image(0, nil)
	want := reference(t, plain)
	if got, err := authenticode.Digest(plain); err != nil || got != want {
		t.Errorf("got %v (%v), want %v", got, err, want)
	}
	// What is hashed by SHA-256 is hashed by SHA-384: the test's own bytes without the gaps.
	hashed := slices.Concat(plain[:64+24+64], plain[64+24+68:64+24+144], plain[64+24+152:])
	if short, long, err := authenticode.Digests(plain); err != nil || short != want || short != keystead.Sum(hashed) || long != keystead.Sum384(hashed) {
		t.Errorf("both: %v, %v (%v)", short, long, err)
	}
	if got, err := authenticode.Digest(image(12345, nil)); err != nil || got != want {
		t.Errorf("another checksum: got %v (%v), want the same digest %v", got, err, want)
	}
	if got, err := authenticode.Digest(image(0, []byte("signature"))); err != nil || got != want {
		t.Errorf("signed: got %v (%v), want the same digest %v", got, err, want)
	}
	for i := range plain {
		changed := bytes.Clone(plain)
		changed[i] ^= 1
		excluded := i >= 64+24+64 && i < 64+24+68 || i >= 64+24+144 && i < 64+24+152
		if got, err := authenticode.Digest(changed); err == nil && got == want && !excluded {
			t.Errorf("byte %d changed and the digest did not", i)
		}
	}
}

func TestDigestRefuses(t *testing.T) {
	file := image(0, []byte("signature"))
	edit := func(at int, v ...byte) []byte {
		b := bytes.Clone(file)
		copy(b[at:], v)
		return b
	}
	for name, tc := range map[string]struct {
		file  []byte
		field string
	}{
		"empty":                      {nil, "DOS magic"},
		"no EFI program":             {[]byte("\x7fELF"), "DOS magic"},
		"header past the end":        {edit(60, 0xff, 0xff, 0xff, 0x7f), "PE offset"},
		"header inside the header":   {edit(60, 2, 0, 0, 0), "PE offset"},
		"no PE header":               {edit(64, 'N', 'E'), "PE signature"},
		"PE32":                       {edit(88, 0x0b, 0x01), "optional header's magic"},
		"certificates past the end":  {edit(88+148, 0xff), "certificate table"},
		"certificates in the header": {edit(88+144, 0, 0, 0, 0), "certificate table"},
		"data after certificates":    {append(bytes.Clone(file), "more"...), "certificate table"},
		"truncated":                  {file[:150], "optional header"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := authenticode.Digest(tc.file)
			var format *keystead.FormatError
			if !errors.As(err, &format) || format.Field != tc.field {
				t.Errorf("got %v, want a FormatError of field %s", err, tc.field)
			}
		})
	}
}

func FuzzDigest(f *testing.F) {
	f.Add(image(0, nil))
	f.Add(image(1, []byte("signature")))
	f.Fuzz(func(t *testing.T, file []byte) {
		d, err := authenticode.Digest(file)
		if (err == nil) == d.IsZero() {
			t.Errorf("digest %v and error %v", d, err)
		}
	})
}

func ExampleDigest() {
	d, err := authenticode.Digest(image(0, nil))
	fmt.Println(d.String()[:14], err)
	// Output: sha256:79f3c2f <nil>
}
