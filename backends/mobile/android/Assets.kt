package sparsecc.NAME

import android.content.Context
import java.io.FileNotFoundException

/**
 * Loads the model with the weights that this module has as an asset: mapped where they are not compressed
 * (`androidResources { noCompress += "bin" }` in the app's build file), read into memory otherwise.
 */
fun Model.Companion.load(context: Context, threads: Int = 1): Model {
    val assets = context.assets
    try {
        assets.openFd("NAME.bin").use { asset ->
            asset.createInputStream().use { stream ->
                return load(stream.channel, asset.startOffset, asset.length, threads)
            }
        }
    } catch (_: FileNotFoundException) { // compressed: it has no place in a file
        return assets.open("NAME.bin").use { load(it, threads) }
    }
}
