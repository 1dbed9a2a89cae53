package evidence

import (
	"bytes"
	"reflect"
	"testing"
	"unicode/utf8"
)

// FuzzQuick: what is read without the CBOR library is what that reads.
func FuzzQuick(f *testing.F) {
	for _, log := range [][]byte{{}, []byte("log"), make([]byte, 23), make([]byte, 24), make([]byte, 256), make([]byte, 1<<16)} {
		f.Add(append(must(encMode.Marshal([]any{itemIMALog, log})), "rest"...))
		f.Add(must(encMode.Marshal(log)))
	}
	f.Add([]byte{0x82, 0x05, 0x5b, 0, 0, 0, 0, 0, 0, 0, 1, 'x'})                       // a length that is longer than need be
	f.Add([]byte{0x82, 0x05, 0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0}) // more than there is
	f.Add([]byte{0x82, 0x05, 0x5f, 0x41, 'x', 0xff})                                   // of indefinite length
	f.Add(must(encMode.Marshal(sample().TPM)))
	f.Add(must(encMode.Marshal([]any{itemTPM, sample().TPM})))
	f.Add(must(encMode.Marshal([]any{itemBinding, sample().Binding})))
	f.Add(must(encMode.Marshal(bundleMagic)))
	f.Add([]byte{0x82, 0x01, 0x61, 0xff})                               // no UTF-8
	f.Add([]byte{0x82, 0x01, 0x81, 0x81, 0x81, 0x81, 0x81, 0x81, 0x00}) // deep
	f.Add(must(encMode.Marshal(TPM{PCRs: []Values{}, EKCertificate: [][]byte{}})))
	f.Add([]byte{0xa2, 0x01, 0x40, 0x01, 0x40})                               // a key twice
	f.Add([]byte{0xa1, 0x04, 0x81, 0xa1, 0x02, 0xa2, 0x01, 0x40, 0x01, 0x40}) // a register twice
	f.Add([]byte{0xa1, 0x04, 0x81, 0xa1, 0x01, 0x1a, 0, 1, 0, 0x0b})          // a bank that is too large a number
	f.Fuzz(func(t *testing.T, raw []byte) {
		if got, rest, ok := quickItem(raw); ok {
			var want item
			after, err := decMode.UnmarshalFirst(raw, &want)
			if err != nil || got.Type != want.Type || !bytes.Equal(got.Content, want.Content) || !bytes.Equal(rest, after) {
				t.Fatalf("want %+v, %d left, %v; got %+v, %d left", want, len(after), err, got, len(rest))
			}
		}
		if got, rest, ok := quickText(raw); ok && utf8.ValidString(got) {
			var want string
			if after, err := decMode.UnmarshalFirst(raw, &want); err != nil || got != want || !bytes.Equal(rest, after) {
				t.Fatalf("want %q, %d left, %v; got %q, %d left", want, len(after), err, got, len(rest))
			}
		}
		if got, ok := quickBytes(raw); ok {
			var want []byte
			if err := decMode.Unmarshal(raw, &want); err != nil || !reflect.DeepEqual(got, want) {
				t.Fatalf("want %x, %v; got %x", want, err, got)
			}
		}
		if got, ok := quickTPM(raw); ok {
			want := new(TPM)
			if err := decMode.Unmarshal(raw, want); err != nil || !reflect.DeepEqual(got, want) {
				t.Fatalf("want %+v, %v; got %+v", want, err, got)
			}
		}
	})
}

// TestQuick: what our own encoder writes is read so.
func TestQuick(t *testing.T) {
	tpm := sample().TPM
	if got, ok := quickTPM(must(encMode.Marshal(tpm))); !ok || !reflect.DeepEqual(got, tpm) {
		t.Errorf("want %+v, got %+v, %t", tpm, got, ok)
	}
}
