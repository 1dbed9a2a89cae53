package eventlog

import "fmt"

// Type is an event's type as the log gives it. No register covers it.
type Type uint32

// Event types (TCG PC Client Platform Firmware Profile 1.06, 10.4.1).
const (
	PostCode             Type = 0x00000001
	NoAction             Type = 0x00000003
	Separator            Type = 0x00000004
	Action               Type = 0x00000005
	EventTag             Type = 0x00000006
	CRTMContents         Type = 0x00000007
	CRTMVersion          Type = 0x00000008
	Microcode            Type = 0x00000009
	PlatformConfig       Type = 0x0000000A
	TableOfDevices       Type = 0x0000000B
	CompactHash          Type = 0x0000000C
	IPL                  Type = 0x0000000D
	IPLPartitionData     Type = 0x0000000E
	NonhostCode          Type = 0x0000000F
	NonhostConfig        Type = 0x00000010
	NonhostInfo          Type = 0x00000011
	OmitBootDeviceEvents Type = 0x00000012
	PostCode2            Type = 0x00000013

	EFIVariableDriverConfig Type = 0x80000001
	EFIVariableBoot         Type = 0x80000002
	EFIApplication          Type = 0x80000003
	EFIBootDriver           Type = 0x80000004
	EFIRuntimeDriver        Type = 0x80000005
	EFIGPT                  Type = 0x80000006
	EFIAction               Type = 0x80000007
	EFIFirmwareBlob         Type = 0x80000008
	EFIHandoffTables        Type = 0x80000009
	EFIFirmwareBlob2        Type = 0x8000000A
	EFIHandoffTables2       Type = 0x8000000B
	EFIVariableBoot2        Type = 0x8000000C
	EFIGPT2                 Type = 0x8000000D
	EFIHCRTM                Type = 0x80000010
	EFIVariableAuthority    Type = 0x800000E0
	EFISPDMFirmwareBlob     Type = 0x800000E1
	EFISPDMFirmwareConfig   Type = 0x800000E2
)

var typeNames = map[Type]string{
	PostCode: "EV_POST_CODE", NoAction: "EV_NO_ACTION", Separator: "EV_SEPARATOR", Action: "EV_ACTION",
	EventTag: "EV_EVENT_TAG", CRTMContents: "EV_S_CRTM_CONTENTS", CRTMVersion: "EV_S_CRTM_VERSION",
	Microcode: "EV_CPU_MICROCODE", PlatformConfig: "EV_PLATFORM_CONFIG_FLAGS", TableOfDevices: "EV_TABLE_OF_DEVICES",
	CompactHash: "EV_COMPACT_HASH", IPL: "EV_IPL", IPLPartitionData: "EV_IPL_PARTITION_DATA",
	NonhostCode: "EV_NONHOST_CODE", NonhostConfig: "EV_NONHOST_CONFIG", NonhostInfo: "EV_NONHOST_INFO",
	OmitBootDeviceEvents: "EV_OMIT_BOOT_DEVICE_EVENTS", PostCode2: "EV_POST_CODE2",
	EFIVariableDriverConfig: "EV_EFI_VARIABLE_DRIVER_CONFIG", EFIVariableBoot: "EV_EFI_VARIABLE_BOOT",
	EFIApplication: "EV_EFI_BOOT_SERVICES_APPLICATION", EFIBootDriver: "EV_EFI_BOOT_SERVICES_DRIVER",
	EFIRuntimeDriver: "EV_EFI_RUNTIME_SERVICES_DRIVER", EFIGPT: "EV_EFI_GPT_EVENT", EFIAction: "EV_EFI_ACTION",
	EFIFirmwareBlob: "EV_EFI_PLATFORM_FIRMWARE_BLOB", EFIHandoffTables: "EV_EFI_HANDOFF_TABLES",
	EFIFirmwareBlob2: "EV_EFI_PLATFORM_FIRMWARE_BLOB2", EFIHandoffTables2: "EV_EFI_HANDOFF_TABLES2",
	EFIVariableBoot2: "EV_EFI_VARIABLE_BOOT2", EFIGPT2: "EV_EFI_GPT_EVENT2", EFIHCRTM: "EV_EFI_HCRTM_EVENT",
	EFIVariableAuthority: "EV_EFI_VARIABLE_AUTHORITY", EFISPDMFirmwareBlob: "EV_EFI_SPDM_FIRMWARE_BLOB",
	EFISPDMFirmwareConfig: "EV_EFI_SPDM_FIRMWARE_CONFIG",
}

// String returns the type's name in the specification, such as EV_SEPARATOR.
func (t Type) String() string {
	if s, ok := typeNames[t]; ok {
		return s
	}
	return fmt.Sprintf("event-type-0x%08x", uint32(t))
}
