package collect

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"github.com/fxamacker/cbor/v2"
	"golang.org/x/sys/unix"
)

// The Nitro Secure Module's device takes a request and gives a response, both CBOR, by one
// ioctl (linux/include/uapi/linux/nsm.h).
const (
	nsmRaw         = 0xC0200A00 // _IOWR(0x0A, 0, struct nsm_raw of 32 bytes)
	maxNSMResponse = 0x3000     // bytes
)

// nsmMessage is struct nsm_raw: two iovecs.
type nsmMessage struct {
	request, response unix.Iovec
}

// quoteNSM asks the module at path for an attestation document.
func quoteNSM(path string, userData, nonce []byte) ([]byte, error) {
	request, err := nsmRequest(userData, nonce)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	response := make([]byte, maxNSMResponse)
	m := nsmMessage{unix.Iovec{Base: &request[0]}, unix.Iovec{Base: &response[0]}}
	m.request.SetLen(len(request))
	m.response.SetLen(len(response))
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), nsmRaw, uintptr(unsafe.Pointer(&m)))
	runtime.KeepAlive(request)
	if errno != 0 {
		return nil, fmt.Errorf("%s: %w", path, errno)
	}
	if m.response.Len > maxNSMResponse {
		return nil, fmt.Errorf("%s: answered %d bytes", path, m.response.Len)
	}
	return nsmDocument(response[:m.response.Len])
}

type nsmAttestation struct {
	UserData  []byte `cbor:"user_data"`
	Nonce     []byte `cbor:"nonce"`
	PublicKey []byte `cbor:"public_key"`
}

// nsmRequest is {"Attestation": {user_data, nonce, public_key: null}}.
func nsmRequest(userData, nonce []byte) ([]byte, error) {
	return cbor.Marshal(map[string]nsmAttestation{"Attestation": {UserData: userData, Nonce: nonce}})
}

// nsmDocument reads {"Attestation": {"document": …}} or {"Error": "…"}.
func nsmDocument(response []byte) ([]byte, error) {
	var r struct {
		Attestation struct {
			Document []byte `cbor:"document"`
		}
		Error string
	}
	if err := cbor.Unmarshal(response, &r); err != nil {
		return nil, fmt.Errorf("the module's answer: %w", err)
	}
	switch {
	case r.Error != "":
		return nil, errors.New("the module answers " + r.Error)
	case len(r.Attestation.Document) == 0:
		return nil, errors.New("the module's answer has no document")
	}
	return r.Attestation.Document, nil
}
