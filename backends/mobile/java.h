/* The part of the Java Native Interface that the library uses, without its headers: an array of function pointers whose slots
   never change (JNI specification, "Interface Function Table"; checked against OpenJDK's jni.h). */
#ifndef SC_JAVA_H
#define SC_JAVA_H
#include "sc.h"

typedef void *java_object;       /* of any class */
typedef struct { const char *name, *signature; void *function; } java_method;

struct java_table;
typedef const struct java_table *const *java;
struct java_table {
  void *unused0[6];
  java_object (*FindClass)(java, const char *name);
  void *unused7[14];
  java_object (*NewGlobalRef)(java, java_object);
  void (*DeleteGlobalRef)(java, java_object);
  void (*DeleteLocalRef)(java, java_object);
  void *unused24[7];
  java_object (*GetObjectClass)(java, java_object);
  void *unused32[1];
  void *(*GetMethodID)(java, java_object of, const char *name, const char *signature);
  void *unused34[27];
  void (*CallVoidMethod)(java, java_object, void *method, ...);
  void *unused62[109];
  i32 (*GetArrayLength)(java, java_object array);
  void *unused172[1];
  java_object (*GetObjectArrayElement)(java, java_object array, i32 at);
  void *unused174[2];
  java_object (*NewByteArray)(java, i32 length);
  void *unused177[3];
  java_object (*NewLongArray)(java, i32 length);
  void *unused181[23];
  void (*GetLongArrayRegion)(java, java_object array, i32 first, i32 count, i64 *to);
  void *unused205[3];
  void (*SetByteArrayRegion)(java, java_object array, i32 first, i32 count, const char *from);
  void *unused209[3];
  void (*SetLongArrayRegion)(java, java_object array, i32 first, i32 count, const i64 *from);
  void *unused213[2];
  i32 (*RegisterNatives)(java, java_object of, const java_method *methods, i32 count);
  void *unused216[12];
  unsigned char (*ExceptionCheck)(java);
  void *unused229[1];
  void *(*GetDirectBufferAddress)(java, java_object buffer);
  i64 (*GetDirectBufferCapacity)(java, java_object buffer);
};

#define JAVA_AT(slot, name) \
  _Static_assert(__builtin_offsetof(struct java_table, name) == slot * sizeof(void *), #name " has left its slot");
JAVA_AT(6, FindClass)
JAVA_AT(21, NewGlobalRef)
JAVA_AT(22, DeleteGlobalRef)
JAVA_AT(23, DeleteLocalRef)
JAVA_AT(31, GetObjectClass)
JAVA_AT(33, GetMethodID)
JAVA_AT(61, CallVoidMethod)
JAVA_AT(171, GetArrayLength)
JAVA_AT(173, GetObjectArrayElement)
JAVA_AT(176, NewByteArray)
JAVA_AT(180, NewLongArray)
JAVA_AT(204, GetLongArrayRegion)
JAVA_AT(208, SetByteArrayRegion)
JAVA_AT(212, SetLongArrayRegion)
JAVA_AT(215, RegisterNatives)
JAVA_AT(228, ExceptionCheck)
JAVA_AT(230, GetDirectBufferAddress)
JAVA_AT(231, GetDirectBufferCapacity)
#undef JAVA_AT

struct java_machine_table {
  void *unused0[6];
  i32 (*GetEnv)(const struct java_machine_table *const *, java *out, i32 version);
};
typedef const struct java_machine_table *const *java_machine;
enum { JAVA_1_6 = 0x00010006, JAVA_FAILED = -1 };
#endif
