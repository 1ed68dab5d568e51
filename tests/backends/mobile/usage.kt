// What an app does with a model, as a program: usage FOLDER. Prints "done" when all is as it should be.
import java.io.File
import java.nio.Buffer
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer
import java.nio.IntBuffer
import kotlin.math.abs
import sparsecc.tiny.Model
import sparsecc.tiny.ModelException
import sparsecc.tiny.Tensor

fun floats(file: File): FloatBuffer =
    ByteBuffer.wrap(file.readBytes()).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()

fun same(got: Buffer, wanted: FloatBuffer) {
    val scale = (0 until wanted.limit()).maxOf { abs(wanted[it]) }
    val worst = (0 until wanted.limit()).maxOf { abs((got as FloatBuffer)[it] - wanted[it]) }
    check(got.limit() == wanted.limit() && worst <= 1e-5f * scale) { "off by $worst of $scale" }
}

fun refused(what: String, call: () -> Any) {
    val said = try {
        call()
        "nothing"
    } catch (error: ModelException) {
        error.message!!
    }
    check(what in said) { "$said, not $what" }
}

fun main(arguments: Array<String>) {
    val folder = File(arguments[0])
    val weights = File(folder, "weights.bin")
    val x = floats(File(folder, "x.raw"))
    val wanted = floats(File(folder, "want.raw"))
    for (threads in 1..3) {
        Model.load(weights, threads).use { model ->
            check(model.inputs.toString() == "[x: FLOAT32 [rows, 33]]")
            check(model.outputs.toString() == "[y: FLOAT32 [rows, 5]]")
            repeat(20) {
                val y = model.run(mapOf("x" to Tensor(x, 7, 33))).getValue("y")
                check(y.dims.toList() == listOf(7L, 5L))
                same(y.data, wanted)
            }
            refused("no inputs [z]") { model.run(mapOf("z" to Tensor(x, 7, 33))) }
            refused("the input x is missing") { model.run(emptyMap()) }
            refused("the model takes [rows, 33]") { model.run(mapOf("x" to Tensor(x, 33, 7))) }
            refused("not those of [7, 34]") { model.run(mapOf("x" to Tensor(x, 7, 34))) }
            refused("does not fit into a buffer") { model.run(listOf(Tensor(x, 1L shl 40, 33))) }
            refused("9 dimensions") { model.run(listOf(Tensor(x, 7, 33, 1, 1, 1, 1, 1, 1, 1))) }
            refused("the input x is FLOAT32") { model.run(listOf(Tensor(IntBuffer.allocate(231), 7, 33))) }
            refused("2 tensors for") { model.run(listOf(Tensor(x, 7, 33), Tensor(x, 7, 33))) }
            same(model.run(mapOf("x" to Tensor(x, 7, 33))).getValue("y").data, wanted)
        }
    }
    val direct = ByteBuffer.allocateDirect(4 * 232).order(ByteOrder.nativeOrder()).asFloatBuffer()
    direct.put(0f).put(x.duplicate()).position(1)
    val closed = Model.load(weights.inputStream()) // copied to memory, as an asset that is compressed
    same(closed.run(direct, 7, 33), wanted)
    closed.close()
    closed.close()
    refused("the model is closed") { closed.run(listOf(Tensor(x, 7, 33))) }
    refused("not a weights file") { Model.load(File(folder, "x.raw")) }
    File(folder, "moved.bin").writeBytes(ByteArray(7) + weights.readBytes()) // an asset within a file
    File(folder, "moved.bin").inputStream().use {
        val model = Model.load(it.channel, 7, weights.length())
        same(model.run(x, 7, 33), wanted)
        model.close()
    }
    println("done")
}
